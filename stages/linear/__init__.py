"""Measure what a student's features are worth: train a new classifier on them, and nothing else."""

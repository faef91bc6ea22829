"""Decide for every crop: drop it, keep its label, or mix the label with the ground truth."""

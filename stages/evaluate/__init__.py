"""Measure a trained network on named sets of images."""

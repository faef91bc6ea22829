"""What made a student, a label, a metric: the chain of digests from it up to the images."""

"""Train a student from the label store."""

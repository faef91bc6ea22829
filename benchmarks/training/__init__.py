"""Training from the label store beside FKD's published procedure."""

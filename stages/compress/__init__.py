"""Turn predictions into stored soft labels of one kind."""

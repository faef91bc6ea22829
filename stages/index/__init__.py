"""The stage that finds the training images, decodes each one fully, and numbers the usable ones."""

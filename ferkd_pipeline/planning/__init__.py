"""What `ferkd-pipeline plan` measures on a few images, and what all of them will take."""

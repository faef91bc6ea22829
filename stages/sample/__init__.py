"""Draw the crops of every image: boxes and flips, from a seed."""

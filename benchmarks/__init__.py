"""Side by side with the reference's format and other stores; prints ratios."""

"""What stages share and nothing else needs."""

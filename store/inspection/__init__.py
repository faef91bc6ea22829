"""What is in a store, what differs between two, selections of it, and what can be deleted."""

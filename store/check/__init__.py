"""Whether every byte of a store is as recorded, and its parts fit together."""

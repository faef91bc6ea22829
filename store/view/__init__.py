"""The training view: labels of a whole store, memory-mapped, gathered a batch at a time."""

"""The processes that torchrun (or accelerate launch) started, told apart without torch."""

import os


def count() -> int:
    """Return how many there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return which of them this is, from 0 on."""
    return int(os.environ.get("RANK", "0"))

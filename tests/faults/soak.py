"""How long tests of faults go on: a few rounds by default, many where FERKD_SOAK says so."""

import os


def rounds(default: int) -> int:
    """Return ``default`` rounds, times FERKD_SOAK: `make soak` sets it."""
    return default * int(os.environ.get("FERKD_SOAK", "1"))

"""The seed of a step's draws: of the step alone, so that it can be made again at any time."""

import numpy as np

_STEP_COUNTER = 0x73746570  # a word of its own: no other draw uses this counter


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """Return the seed of a step's draws, in [0, 2**63); streams are independent of each other."""
    key = np.array([seed, step], dtype=np.uint64)
    counter = np.array([0, 0, stream, _STEP_COUNTER], dtype=np.uint64)
    # Raw words of Philox are the same in every numpy version.
    return int(np.random.Philox(key=key, counter=counter).random_raw() >> 1)

"""The processes that torchrun, accelerate launch or srun started, told apart without torch."""

import os


def count() -> int:
    """Return how many there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return which of them this is, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int | None:
    """Return which of the processes of this machine this is, from 0 on; None where it is alone."""
    if count() > 1 and "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_LOCALID" in os.environ:
        return int(os.environ["SLURM_LOCALID"])
    return None

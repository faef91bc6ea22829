"""Memory for batches: where it comes from, how much may wait, and what to say when it runs out."""

import math
import mmap
import shutil
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import get_worker_info

from store.errors import RetryError

PREFETCH_BYTES = 4 * 2**30
"""What batches that are ready may take, those of all workers together."""

_MOST_AHEAD = 4  # batches a worker may be ahead
_SHARED_MEMORY = Path("/dev/shm")
_KERNEL_COUNTERS = Path("/proc/vmstat")

LARGER = "make /dev/shm larger (docker run --shm-size), or lower num_workers or batch_size,"
"""What to do where shared memory is short."""

_SIGNS = ("can't allocate memory", "shared memory", "Cannot allocate memory")
"""Words of torch's errors about memory, which are RuntimeErrors like all others."""


def new_bytes(shape: tuple[int, ...]) -> torch.Tensor:
    """Return uint8 memory with anything in it; a worker's can be seen by the process it works for.

    Without that a batch would be copied on its way. In the process itself it comes from numpy,
    which asks for huge pages: touching 38 MB for the first time takes 3 ms then, 15 ms without.
    """
    if get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, np.uint8))
    size = math.prod(shape)
    # torch makes the file in /dev/shm first: where it then finds no address space, the file stays.
    try:
        mmap.mmap(-1, max(1, size)).close()
    except OSError as error:
        raise MemoryError(f"no {size:,} bytes of address space") from error
    # As torch's own collation does.
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def batches_ahead(batch_bytes: int, num_workers: int) -> int:
    """Return how many batches of that size each worker may have ready: 1 to 4."""
    budget = PREFETCH_BYTES
    if _SHARED_MEMORY.is_dir():
        budget = min(budget, shutil.disk_usage(_SHARED_MEMORY).free // 2)
    return max(1, min(_MOST_AHEAD, budget // max(1, batch_bytes * num_workers)))


def want_of_memory(error: Exception) -> RetryError | None:
    """Return what to tell of an error where it is about memory, else None."""
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _SIGNS):
        if "shared memory" in str(error):
            return RetryError(
                f"there was no shared memory for a batch of images; {LARGER} and run the same "
                "command again"
            )
        return RetryError(
            f"there was no memory for a batch of images ({_first_line(error)}); lower num_workers "
            "or batch_size, or set resize to cpu, and run the same command again"
        )
    return None


def num_memory_kills() -> int:
    """Return how many processes the system killed for want of memory since it started."""
    try:
        lines = _KERNEL_COUNTERS.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

"""Timing and memory of what is compared: one core, interleaved, the best of several rounds."""

import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Self

_PACKAGES = ("numpy", "pyarrow", "zarr", "pandas", "torch", "lmdb", "h5py", "xxhash")
_SAMPLE_SECONDS = 0.02


def pin_to_one_core() -> None:
    """Keep this process, its threads and its children on one core; count torch's threads as one.

    Without it pyarrow and zarr would spread over the machine's cores.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def best_rates(tasks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Amount a second of each task, the best of ``rounds``, all tasks in turn in each round.

    A task does its work and returns the amount of it.
    """
    best = dict.fromkeys(tasks, 0.0)
    for _ in range(rounds):
        for name, task in tasks.items():
            began = time.perf_counter()
            amount = task()
            best[name] = max(best[name], amount / (time.perf_counter() - began))
    return best


def machine() -> dict[str, str | int | float]:
    """What the figures were measured on, without its name."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    versions = {name: version(name) for name in _PACKAGES}
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "memory_gb": round(pages / 2**30, 1),
        "python": platform.python_version(),
        **versions,
    }


def private_dirty_mb() -> float:
    """Memory that this process alone has written, in MB: what one more worker costs a host."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/smaps_rollup has no Private_Dirty")


class AnonymousPeak:
    """Largest anonymous memory of this process while the block runs, in MB.

    Pages of mapped files are left out: the kernel takes them back when it wants to.
    """

    def __init__(self) -> None:
        self.mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            anonymous = status.partition("RssAnon:")[2].split(maxsplit=1)[0]
            self.mb = max(self.mb, int(anonymous) / 1024)
            if self._stop.wait(_SAMPLE_SECONDS):
                return


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

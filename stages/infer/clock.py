"""Where the time of a run goes, added up over threads and, on a GPU, by its own clock."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def new_event(*, timed: bool = False) -> torch.cuda.Event:
    """Return a mark that a GPU passes when it has done what it was given before."""
    return torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]


class Clock:
    """Seconds by part of the work: those of a thread's call, or of what a GPU was given in it."""

    def __init__(self, device: torch.device | None = None) -> None:
        """With a CUDA ``device``, `on_device` measures what it computes; else what the CPU does."""
        self._events = device is not None and device.type == "cuda"
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = defaultdict(float)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the time that the block takes in this thread."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._add(part, time.perf_counter() - begun)

    @contextmanager
    def on_device(self, part: str) -> Iterator[None]:
        """Add the time that the current stream takes for what the block gives it."""
        if not self._events:
            with self.time(part):
                yield
            return
        begun, ended = (new_event(timed=True) for _ in range(2))
        begun.record()
        yield
        ended.record()
        self._pending.append((part, begun, ended))

    def reset(self) -> None:
        """Begin anew, say after warming up."""
        with self._lock:
            self._seconds.clear()
            self._pending.clear()

    def seconds(self) -> dict[str, float]:
        """Seconds by part; waits for the device."""
        for part, begun, ended in self._pending:
            ended.synchronize()
            self._add(part, begun.elapsed_time(ended) / 1000)
        self._pending.clear()
        with self._lock:
            return dict(self._seconds)

    def _add(self, part: str, seconds: float) -> None:
        with self._lock:
            self._seconds[part] += seconds


class NoClock(Clock):
    """Measures nothing: events of a GPU would pile up over days."""

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Only run the block."""
        yield

    @contextmanager
    def on_device(self, part: str) -> Iterator[None]:
        """Only run the block."""
        yield

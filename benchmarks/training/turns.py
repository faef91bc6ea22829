"""Timing in turns, and on how many cores."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping

import torch


def seconds_in_turns(
    tasks: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of each task, one value a round, after one round that does not count.

    Of the processor, by default: on one core that is the time of a clock on the wall, less what
    other programs took of it. More cores and GPUs need ``time.perf_counter``.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        # Every other round backwards: none always finds the caches that the same one left.
        order = list(tasks) if number % 2 == 0 else list(tasks)[::-1]
        for name in order:
            began = clock()
            tasks[name]()
            seconds[name].append(clock() - began)
    return {name: values[1:] for name, values in seconds.items()}


@contextlib.contextmanager
def on_cores(number: int) -> Iterator[None]:
    """Run the block on ``number`` cores, with as many threads of torch."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    assert number <= len(before), "no more than there are"
    try:
        # Threads that torch starts take over the cores of the one that starts them.
        os.sched_setaffinity(0, set(sorted(before)[:number]))
        torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, before)

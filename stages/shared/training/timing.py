"""Time per step of several trainings, measured in turns.

A few steps of each in every round: whatever else the machine does falls on all of them alike.
"""

from collections.abc import Mapping

from stages.shared.contract import NoProgress, Progress
from stages.shared.training.trainer import Trainer

_WARM_UP = 3  # steps before the first round: caches fill, kernels are chosen


def num_steps(rounds: int, steps: int) -> int:
    """Return how many steps a training must have to be timed so."""
    return _WARM_UP + rounds * steps


def in_turns(
    trainers: Mapping[str, Trainer], rounds: int, steps: int, progress: Progress
) -> dict[str, list[float]]:
    """Return the seconds per step of each training, one value a round.

    Raises:
        DataError: an image cannot be read.
    """
    quiet = NoProgress()
    for trainer in trainers.values():
        trainer.advance(_WARM_UP, quiet)
    progress.start("time per step", rounds, "rounds")
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(rounds):
        # Every other round backwards: none always runs in the heat of the same one.
        order = list(trainers) if number % 2 == 0 else list(trainers)[::-1]
        for name in order:
            seconds[name].append(trainers[name].advance(steps, quiet) / steps)
        progress.advance()
    return seconds

"""Passes over the images: how many crops of each image a pass takes, and which step lies in which.

N images, B crops a step, m crops an image. Plain Python: parameters are checked with it.

A pass gives every image m crops and counts as m epochs. The images of a run of equal passes are one
endless line, cut into steps across passes, so no crop is dropped. Where m changes, a step that is
not yet full is filled up from the pass that would have come next; the new passes begin with a step.
(The few images that fill it are shown their next crops once more when their turn comes.)
"""

import bisect
import math
from dataclasses import dataclass
from typing import NamedTuple, Self

_ROUNDING = 1e-9
"""Epochs that are whole but for this are whole: 0.1 + 0.2 is not 0.3."""


class Turn(NamedTuple):
    """One pass, as a source of crops needs to know it."""

    number: int
    """Counts the passes of the whole training."""
    first: int
    """Crops that every image gave in the passes before."""
    m: int
    """Crops that every image gives in this one."""


class Piece(NamedTuple):
    """Places ``start`` to ``stop`` (exclusive) of a pass's order of images."""

    turn: Turn
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Run:
    """Passes of one kind, one after the other."""

    start: int
    """Its first step."""
    first: Turn
    """Its first pass."""


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes of a training."""

    num_images: int
    batch_size: int
    num_steps: int
    runs: tuple[_Run, ...]
    """In order; the last one has no end of its own."""

    @classmethod
    def equal(cls, num_images: int, batch_size: int, m: int, num_steps: int) -> Self:
        """Return passes that all take ``m`` crops an image."""
        return cls(num_images, batch_size, num_steps, (_Run(0, Turn(0, 0, m)),))

    @classmethod
    def serrated(
        cls,
        num_images: int,
        batch_size: int,
        m: int,
        *,
        num_epochs: float,
        warmup_epochs: float,
        num_steps: int | None,
    ) -> Self:
        """Return FKD's passes: one crop an image while warming up, then ``m``, the rest one again.

        Epochs at the end that do not fill a pass of ``m`` are passes of one crop. ``num_steps``
        replaces the number of steps that this comes to.
        """
        if m == 1:
            steps = num_steps or max(1, _ceil(num_epochs * num_images / batch_size))
            return cls.equal(num_images, batch_size, m, steps)
        warmup = min(_ceil(warmup_epochs), _ceil(num_epochs))
        whole = max(0, math.floor((num_epochs - warmup) / m + _ROUNDING))
        rest = max(0.0, num_epochs - warmup - whole * m)
        # Without a pass of m between them, the others are one run.
        kinds = [(warmup, 1), (whole, m), (rest, 1)] if whole else [(warmup + rest, 1)]
        runs: list[_Run] = []
        step = number = first = 0
        for num_passes, crops in kinds:
            if num_passes > _ROUNDING:
                runs.append(_Run(step, Turn(number, first, crops)))
                step += _ceil(num_passes * num_images * crops / batch_size)
                number += _ceil(num_passes)
                first += _ceil(num_passes) * crops
        return cls(num_images, batch_size, num_steps or max(1, step), tuple(runs))

    def pieces(self, step: int) -> list[Piece]:
        """Return what a step takes of which passes; together B crops, all with one m."""
        run = self._run_of(step)
        m = run.first.m
        images = self.batch_size // m
        place, left = (step - run.start) * images, images
        found = []
        while left:
            number, start = divmod(place, self.num_images)
            stop = min(start + left, self.num_images)
            turn = Turn(run.first.number + number, run.first.first + number * m, m)
            found.append(Piece(turn, start, stop))
            place, left = place + stop - start, left - (stop - start)
        return found

    def turn_of(self, step: int) -> Turn:
        """Return the pass that a step begins in; ``first`` is the epoch that it counts from."""
        return self.pieces(step)[0].turn

    def _run_of(self, step: int) -> _Run:
        place = bisect.bisect_right(self.runs, step, key=lambda run: run.start)
        return self.runs[place - 1]


def _ceil(value: float) -> int:
    return math.ceil(value - _ROUNDING)

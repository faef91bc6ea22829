"""What a training leaves to be read: losses, learning rates, accuracy along the way, and times."""

import csv
import io
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch

from stages.shared.contract import Json

_FIRST_STEPS = 5
"""Steps that time per step leaves out: caches fill and kernels are chosen in them."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often a network is right, on one set of images."""

    num_images: int
    top1: float
    """Share in [0, 1]."""
    top5: float
    """Share in [0, 1]; among the first min(5, C)."""
    class_images: tuple[int, ...] = ()
    """(C,) images of each class."""
    class_correct: tuple[int, ...] = ()
    """(C,) of those, right."""


@dataclass(slots=True)
class History:
    """One training. All but ``step_seconds`` is the same again with the same seed."""

    losses: list[float] = field(default_factory=list)
    """Of step s at place s: mean over its crops, before the step."""
    lrs: list[float] = field(default_factory=list)
    """Of step s at place s."""
    evaluations: list[tuple[int, Accuracy]] = field(default_factory=list)
    """(steps done, accuracy), in order; the last one is the trained network's."""
    step_seconds: list[float] = field(default_factory=list)
    """Wall time of each step, data included, evaluation not. On a GPU single values say little,
    since steps run ahead of the clock; their mean is right. Kept out of reproducible files."""

    wait_seconds: list[float] = field(default_factory=list)
    """Of each step's wall time, what went by until its data were there."""

    @property
    def final(self) -> Accuracy | None:
        """Accuracy at the end, if there was an evaluation."""
        return self.evaluations[-1][1] if self.evaluations else None

    def seconds_per_step(self) -> float | None:
        """Return the mean without the first steps; None for too short a training."""
        measured = self.step_seconds[_FIRST_STEPS:]
        return statistics.fmean(measured) if measured else None

    def waited_share(self) -> float | None:
        """Return the share of the time that went into waiting for data; None if not measured."""
        total = sum(self.step_seconds[_FIRST_STEPS:])
        return sum(self.wait_seconds[_FIRST_STEPS:]) / total if total else None

    def state(self) -> dict[str, object]:
        """Return all but the times, for a checkpoint."""
        return {
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "lrs": torch.tensor(self.lrs, dtype=torch.float64),
            "evaluations": [(step, asdict(accuracy)) for step, accuracy in self.evaluations],
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """Return what `state` was taken of."""
        return cls(
            losses=state["losses"].tolist(),
            lrs=state["lrs"].tolist(),
            evaluations=[(step, Accuracy(**found)) for step, found in state["evaluations"]],
        )

    def curve_csv(self) -> str:
        """Return the curve as CSV: step, lr, loss (mean since the row before), top1, top5.

        One row an evaluation; without evaluations, up to 100 rows evenly spread.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "lr", "loss", "top1", "top5"])
        before = 0
        for step, accuracy in self._rows():
            loss = statistics.fmean(self.losses[before:step])
            shares = ("", "") if accuracy is None else (accuracy.top1, accuracy.top5)
            writer.writerow(
                [step, f"{self.lrs[step - 1]:.6g}", f"{loss:.6f}", *map(_short, shares)]
            )
            before = step
        return out.getvalue()

    def numbers(self) -> dict[str, Json]:
        """Return what a metrics file should have of this training: no times."""
        tenth = max(1, len(self.losses) // 10)
        numbers: dict[str, Json] = {
            "steps": len(self.losses),
            "final_loss": round(statistics.fmean(self.losses[-tenth:]), 6),
        }
        if self.final is not None:
            numbers |= accuracy_numbers(self.final)
        return numbers

    def _rows(self) -> list[tuple[int, Accuracy | None]]:
        if self.evaluations:
            return [*self.evaluations]
        num_steps = len(self.losses)
        num_rows = min(100, num_steps)
        return [(num_steps * (row + 1) // num_rows, None) for row in range(num_rows)]


def accuracy_numbers(accuracy: Accuracy) -> dict[str, Json]:
    """Return top-1 and top-5 as shares, and the number of images they were taken over."""
    return {
        "top1": round(accuracy.top1, 6),
        "top5": round(accuracy.top5, 6),
        "num_images": accuracy.num_images,
    }


def _short(share: float | str) -> str:
    return share if isinstance(share, str) else f"{share:.6f}"

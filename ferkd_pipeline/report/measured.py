"""What stages wrote under metrics/, read back. Accuracies are shares in [0, 1], times seconds."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pydantic

from store.errors import DataError

Found = TypeVar("Found", bound=pydantic.BaseModel)


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class Spread(_Model):
    """One quantity over several seeds."""

    mean: float
    std: float | None
    n: int


class Difference(_Model):
    """Two arms compared seed by seed."""

    mean: float
    standard_error: float | None
    n: int


class Comparison(_Model):
    """compare.json of stage compare."""

    student: str
    steps: int
    num_crops: int
    seeds: tuple[int, ...]
    top1: Mapping[str, Mapping[str, Spread]]
    """By arm, then by set of images."""
    paired: Mapping[str, Mapping[str, Difference]]
    """By "arm - baseline", then by set of images."""


class Timing(_Model):
    """timing.json of stage compare."""

    rounds: int
    seconds_per_step: Mapping[str, float]
    ratio_to_truth: Mapping[str, float]


class Trained(_Model):
    """summary.json of the stages teacher and train; no accuracy where none was measured."""

    steps: int
    num_parameters: int
    top1: float | None = None
    top5: float | None = None
    num_images: int | None = None


class Accuracy(_Model):
    """A set in summary.json of stage evaluate; no top-5 where images have several labels."""

    top1: float
    top5: float | None = None
    num_images: int


class Evaluation(pydantic.RootModel[dict[str, Accuracy]]):
    """summary.json of stage evaluate, by set."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy of one arm along the way, over its seeds."""

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """0 where there is one seed."""

    def halfway(self) -> tuple[int, float]:
        """Return step and mean of the evaluation in the middle."""
        middle = (len(self.steps) - 1) // 2
        return self.steps[middle], self.mean[middle]


def read(path: Path, kind: type[Found]) -> Found | None:
    """Return what a stage wrote, or None where it has not run.

    Raises:
        DataError: the file is not what that stage writes.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path}: {place}: {first['msg']}; run its stage again") from None


def read_curves(path: Path) -> dict[str, Curve]:
    """Return the curves of stage compare by arm, in the order of the file; empty without one.

    Raises:
        DataError: the file is not what stage compare writes.
    """
    if not path.exists():
        return {}
    points: dict[str, list[tuple[int, float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        try:
            for row in csv.DictReader(file):
                point = (int(row["step"]), float(row["top1_mean"]), float(row["top1_std"] or 0))
                points.setdefault(row["arm"], []).append(point)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path}: not a curve ({error}); run stage compare again") from None
    return {
        arm: Curve(*(tuple(column) for column in zip(*rows, strict=True)))
        for arm, rows in points.items()
    }

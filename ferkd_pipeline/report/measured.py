"""What stages wrote under metrics/, read back. Accuracies are shares in [0, 1], times seconds."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self, TypeVar

import pydantic

from store.errors import DataError

Found = TypeVar("Found", bound=pydantic.BaseModel)


_MANY = 2**53
Count = Annotated[int, pydantic.Field(ge=0, le=_MANY)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Finite = Annotated[float, pydantic.Field(ge=-_MANY, le=_MANY, allow_inf_nan=False)]
Positive = Annotated[float, pydantic.Field(gt=0, le=_MANY, allow_inf_nan=False)]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class Spread(_Model):
    """One quantity over several seeds."""

    mean: Share
    std: Share | None
    n: Count


class Difference(_Model):
    """Two arms compared seed by seed."""

    mean: Finite
    standard_error: Finite | None
    n: Count


class Comparison(_Model):
    """compare.json of stage compare."""

    student: str
    steps: Count
    num_crops: Count
    seeds: tuple[int, ...]
    top1: Mapping[str, Mapping[str, Spread]]
    """By arm, then by set of images."""
    paired: Mapping[str, Mapping[str, Difference]]
    """By "arm - baseline", then by set of images."""

    @pydantic.model_validator(mode="after")
    def _has_every_set(self) -> Self:
        sets = [*map(set, self.top1.values())]
        if not sets or not sets[0] or any(each != sets[0] for each in sets):
            raise ValueError("top1 has not the same sets of images for every arm")
        if any(sets[0] - set(each) for each in self.paired.values() if each):
            raise ValueError("paired has not all sets of images that top1 has")
        return self


class Timing(_Model):
    """timing.json of stage compare."""

    rounds: Count
    seconds_per_step: Mapping[str, Positive]
    ratio_to_truth: Mapping[str, Positive]

    @pydantic.model_validator(mode="after")
    def _has_every_ratio(self) -> Self:
        if self.seconds_per_step.keys() != self.ratio_to_truth.keys():
            raise ValueError("seconds_per_step and ratio_to_truth are of different arms")
        return self


class Trained(_Model):
    """summary.json of the stages teacher and train; no accuracy where none was measured."""

    steps: Count
    num_parameters: Count
    top1: Share | None = None
    top5: Share | None = None
    num_images: Count | None = None


class Accuracy(_Model):
    """A set in summary.json of stage evaluate; no top-5 where images have several labels."""

    top1: Share
    top5: Share | None = None
    num_images: Count


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
        where = f"{path}: {place[:100]}" if place else f"{path}"
        raise DataError(f"{where}: {first['msg']}; run its stage again") from None


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
            for row in csv.DictReader(file, strict=True):
                points.setdefault(str(row["arm"]), []).append(_point(row))
        except (csv.Error, KeyError, ValueError, TypeError) as error:
            why = f"{error}"[:100] or "a row is too short"
            raise DataError(f"{path}: not a curve ({why}); run stage compare again") from None
    return {
        arm: Curve(*(tuple(column) for column in zip(*rows, strict=True)))
        for arm, rows in points.items()
    }


def _point(row: Mapping[str, str]) -> tuple[int, float, float]:
    point = (int(row["step"]), float(row["top1_mean"]), float(row["top1_std"] or 0))
    if not (0 <= point[0] <= _MANY and 0 <= point[1] <= 1 and 0 <= point[2] <= 1):
        raise ValueError(f"step {point[0]} with accuracy {point[1]} and deviation {point[2]}")
    return point

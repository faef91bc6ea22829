"""The small files of results, as means, deviations and differences seed by seed.

Accuracies are shares in [0, 1].
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.study import Study
from stages.compare.core import Summary, with_error
from store.errors import DataError

Rows = list[dict[str, str]]

SPLITS = ("val", "test")
NOTHING = "-"
"""A cell without a value."""


@dataclass(frozen=True, slots=True)
class Results:
    """What the students of a study reached."""

    found: Study
    top1: Mapping[tuple[str, str], Mapping[str, Mapping[int, float]]]
    """By (world, arm), split and seed."""

    def arms(self, world: str) -> list[str]:
        """Arms of a world that were trained, in the study's order."""
        return [arm for arm in self.found.arms_of(world) if (world, arm) in self.top1]

    def summary(self, world: str, arm: str, split: str) -> Summary:
        """Top-1 over the seeds."""
        return Summary(tuple(self.top1[world, arm][split].values()))

    def difference(self, world: str, arm: str, split: str) -> Summary | None:
        """Top-1 less the baseline's in the same world, over the seeds that both have."""
        base = self.top1.get((world, self.found.baseline), {}).get(split, {})
        own = self.top1[world, arm][split]
        pairs = [own[seed] - base[seed] for seed in own if seed in base]
        return Summary(tuple(pairs)) if pairs and arm != self.found.baseline else None


def rows(found: Study, name: str) -> Rows:
    """Rows of one file of results.

    Raises:
        DataError: it is missing.
    """
    path = found.results / f"{name}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing; make it with `python -m experiments.results`"
        ) from None


def results(found: Study) -> Results:
    """Read what the students reached.

    Raises:
        DataError: the file is missing, or tells of arms that the study does not have.
    """
    top1: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in rows(found, "students"):
        world, arm, seed = row["world"], row["arm"], int(row["seed"])
        if arm not in found.arms or world not in found.arms[arm].worlds:
            raise DataError(
                f"{found.results / 'students.csv'} has {world}/{arm}, which the study does not; "
                "run `python -m experiments.results`"
            )
        sets = top1.setdefault((world, arm), {split: {} for split in SPLITS})
        for split in SPLITS:
            sets[split][seed] = float(row[split])
    return Results(found, top1)


def deviating(summary: Summary) -> str:
    """Mean and sample deviation in percent, such as 66.8 ± 1.1."""
    return with_error(summary.mean, summary.deviation)


def differing(summary: Summary | None) -> str:
    """Mean and standard error in points, such as +0.8 ± 0.9."""
    if summary is None:
        return NOTHING
    return with_error(summary.mean, summary.standard_error, signed=True)


def percent(text: str) -> str:
    """A share that stands in a file of results, in percent."""
    return f"{100 * float(text):.1f}" if text else NOTHING

"""The first phase of calibrate: what all shards together say, so that each can be done alone.

Shapes: N crops of one shard, V distinct values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.calibrate.config import FerkdStep, Step
from stages.shared.contract import Json
from store.precision import Precision, round_probability

Shares = Literal["drop_lowest", "soften_lowest", "drop_highest"]


@dataclass(frozen=True, slots=True)
class MaxProbCounts:
    """How many crops have each maximum probability: exact, small, and mergeable in any order.

    Stored maxima lie on a grid, so there are few distinct values however many crops there are.
    """

    values: NDArray[np.float32]
    """(V,) ascending, no NaN."""
    counts: NDArray[np.int64]
    """(V,) at least 1."""

    @classmethod
    def empty(cls) -> "MaxProbCounts":
        """Return the counts of no crops."""
        return cls(np.empty(0, np.float32), np.empty(0, np.int64))

    def add(self, max_prob: NDArray[np.float32]) -> "MaxProbCounts":
        """Return these counts and those of (N,) more crops; NaN (rejected) is not counted."""
        values = np.asarray(max_prob, dtype=np.float32)
        found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
        return self.merge(MaxProbCounts(found, counts.astype(np.int64)))

    def merge(self, other: "MaxProbCounts") -> "MaxProbCounts":
        """Return the counts of both together."""
        values, place = np.unique(np.append(self.values, other.values), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, place, np.append(self.counts, other.counts))
        return MaxProbCounts(values, counts)

    @property
    def total(self) -> int:
        """How many crops are counted."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> float | None:
        """Return the largest value v such that at most `share` of the crops are <= v.

        None where even the smallest value has more of them.
        """
        fits = np.flatnonzero(np.cumsum(self.counts) <= self._allowed(share))
        return float(self.values[fits[-1]]) if len(fits) else None

    def upper_quantile(self, share: float) -> float | None:
        """Return the smallest value v such that at most `share` of the crops are >= v, or None."""
        fits = np.flatnonzero(np.cumsum(self.counts[::-1]) <= self._allowed(share))
        return float(self.values[::-1][fits[-1]]) if len(fits) else None

    def _allowed(self, share: float) -> float:
        # A share such as 0.29 of 100 is 28.999999999999996 in float64; no count is that exact.
        return share * self.total * (1 + 1e-12)

    def to_json(self) -> dict[str, Json]:
        """Return the counts as plain numbers; `from_json` gives the very same back."""
        return {
            "values": [float(value) for value in self.values],
            "counts": [int(count) for count in self.counts],
        }

    @classmethod
    def from_json(cls, data: dict[str, Json]) -> "MaxProbCounts":
        """Return what `to_json` was made from."""
        return cls(np.array(data["values"], np.float32), np.array(data["counts"], np.int64))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """FerKD's intervals on the grid that maxima are stored on; None is off."""

    drop_up_to: float | None = None
    """Crops up to this maximum, inclusive, are dropped (of shares)."""
    drop_below: float | None = None
    """Crops below this maximum are dropped."""
    soften_from: float | None = None
    """Of the others, those from this maximum on .."""
    soften_to: float | None = None
    """.. up to this one, inclusive, are softened. None: nothing is."""
    drop_from: float | None = None
    """Crops from this maximum on are dropped."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What `apply` needs to know of all shards."""

    precision: Precision
    """Grid of the stored maxima."""
    num_crops: int
    """Crops that the fit saw, without rejected ones."""
    thresholds: tuple[Thresholds | None, ...]
    """One for each step of the recipe; None for steps that have none."""

    def to_json(self) -> dict[str, Json]:
        """Return the fit as plain JSON; `from_json` gives an equal one back."""
        return {
            "precision": self.precision,
            "num_crops": self.num_crops,
            "thresholds": [
                None
                if each is None
                else {name: getattr(each, name) for name in Thresholds.__dataclass_fields__}
                for each in self.thresholds
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Json]) -> "Fit":
        """Return what `to_json` was made from. Raises ValueError when it was no fit."""
        match data:
            case {
                "precision": "float16" | "compact" as precision,
                "num_crops": int(num_crops),
                "thresholds": list(each),
            }:
                thresholds = tuple(_thresholds_from_json(one) for one in each)
                return cls(precision, num_crops, thresholds)
        raise ValueError("not a fit: needs precision, num_crops and thresholds")


def _thresholds_from_json(data: Json) -> Thresholds | None:
    if data is None:
        return None
    if not isinstance(data, dict) or set(data) != set(Thresholds.__dataclass_fields__):
        raise ValueError("not a fit: a threshold is missing or unknown")
    numbers: dict[str, float | None] = {}
    for name, value in data.items():
        if not (value is None or isinstance(value, float | int)):
            raise ValueError(f"not a fit: {name} is no number")
        numbers[name] = value
    return Thresholds(**numbers)


_PRESETS = {
    "ferkd": Thresholds(drop_below=0.05, soften_from=0.05, soften_to=0.3, drop_from=0.95),
    "ferkd_literal": Thresholds(drop_below=0.05, soften_from=0.15, soften_to=0.3, drop_from=0.95),
}
# What [0, .05), [0, .3] and [.95, 1] hold of FerKD's own labels, from its Table 1.
_PRESET_SHARES: dict[Shares, float] = {
    "drop_lowest": 0.002,
    "soften_lowest": 0.0261,
    "drop_highest": 0.0033,
}


def fit(steps: Sequence[Step], counts: MaxProbCounts, precision: Precision) -> Fit:
    """Return what all shards together say: thresholds on the stored grid.

    Args:
        steps: of one recipe.
        counts: of all crops of all shards; the maximum at T=1 before compression.
        precision: of the stored maxima. Thresholds are rounded as they were, so that a maximum of
            exactly .05 lands on the side that is stated.
    """
    thresholds = tuple(
        _thresholds(step, counts, precision) if isinstance(step, FerkdStep) else None
        for step in steps
    )
    return Fit(precision, counts.total, thresholds)


def needs_counts(steps: Sequence[Step]) -> bool:
    """Whether the thresholds depend on the crops; if not, any counts make the same thresholds."""
    return any(isinstance(step, FerkdStep) and _shares(step) is not None for step in steps)


def _thresholds(step: FerkdStep, counts: MaxProbCounts, precision: Precision) -> Thresholds:
    shares = _shares(step)
    if shares is not None:
        return _from_shares(shares, counts)
    asked = _PRESETS.get(step.preset) or Thresholds(
        drop_below=step.drop_below,
        soften_from=step.drop_below if step.soften_from is None else step.soften_from,
        soften_to=step.soften_to,
        drop_from=step.drop_from,
    )
    return Thresholds(
        drop_below=_on_grid(asked.drop_below, precision),
        soften_from=_on_grid(asked.soften_from, precision),
        soften_to=_on_grid(asked.soften_to, precision),
        drop_from=_on_grid(asked.drop_from, precision),
    )


def _on_grid(threshold: float | None, precision: Precision) -> float | None:
    return None if threshold is None else float(round_probability(threshold, precision))


def _shares(step: FerkdStep) -> dict[Shares, float] | None:
    if step.preset == "ferkd_share":
        return _PRESET_SHARES
    given: dict[Shares, float | None] = {
        "drop_lowest": step.drop_lowest,
        "soften_lowest": step.soften_lowest,
        "drop_highest": step.drop_highest,
    }
    present = {name: share for name, share in given.items() if share is not None}
    return present or None


def _from_shares(shares: dict[Shares, float], counts: MaxProbCounts) -> Thresholds:
    """Return thresholds that act on at most the shares asked for; ties are never cut in two."""
    soften = shares.get("soften_lowest", 0.0)
    return Thresholds(
        drop_up_to=counts.quantile(shares.get("drop_lowest", 0.0)),
        soften_to=counts.quantile(soften),
        drop_from=counts.upper_quantile(shares.get("drop_highest", 0.0)),
    )

"""How often the teacher is right, by how sure it is: what thresholds are chosen from.

Shapes: N crops of one shard, V distinct probabilities.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.shared.contract import Json
from store.distinct import distinct

_UNIT = 2**20
"""Probabilities of the ground truth are added as whole numbers of 1 / 2**20: their sum is then the
same in any order, and exact in float64 for eight thousand million crops."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Neighbouring probabilities, from `low` to `high`, both inclusive."""

    low: float
    high: float
    crops: int
    right: int
    target_prob: float
    """Mean probability of the ground truth."""

    @property
    def accuracy(self) -> float:
        """Share of the crops whose most probable class is the ground truth."""
        return self.right / self.crops

    def to_json(self) -> dict[str, Json]:
        """Return the bin as plain JSON, with its accuracy."""
        return {
            "low": self.low,
            "high": self.high,
            "crops": self.crops,
            "accuracy": round(self.accuracy, 6),
            "target_prob": round(self.target_prob, 6),
        }


@dataclass(frozen=True, slots=True)
class Reliability:
    """Crops by probability: exact, small, and mergeable in any order.

    Stored probabilities lie on a grid, so there are few distinct values however many crops.
    """

    values: NDArray[np.float32]
    """(V,) ascending, no NaN: the teacher's maximum, or what it gives the ground truth."""
    crops: NDArray[np.int64]
    """(V,) at least 1."""
    right: NDArray[np.int64]
    """(V,) of them, those whose most probable class is the ground truth."""
    target_sum: NDArray[np.int64]
    """(V,) sum of the ground truth's probabilities, in units of 2**-20."""

    @classmethod
    def empty(cls) -> "Reliability":
        """Return the reliability of no crops."""
        zero = np.empty(0, np.int64)
        return cls(np.empty(0, np.float32), zero, zero, zero)

    @classmethod
    def of(
        cls,
        values: NDArray[np.float32],
        right: NDArray[np.bool_],
        target_prob: NDArray[np.float32],
    ) -> "Reliability":
        """Count N crops; those whose value is NaN (rejected) are left out."""
        found, codes = distinct(np.asarray(values, np.float32))
        num = len(found)
        both = np.bincount(codes * 2 + right, minlength=2 * num).reshape(num, 2)
        # Their target is NaN too; as 0 it leaves the other sums as they are.
        units = np.nan_to_num(np.rint(target_prob.astype(np.float64) * _UNIT))
        sums = np.bincount(codes, weights=units, minlength=num).astype(np.int64)
        order = np.argsort(found, kind="stable")
        order = order[~np.isnan(found[order])]
        return cls(found[order], both.sum(axis=1)[order], both[order, 1], sums[order])

    def merge(self, other: "Reliability") -> "Reliability":
        """Return the counts of both together."""
        values, place = np.unique(np.append(self.values, other.values), return_inverse=True)

        def sums(mine: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
            total = np.zeros(len(values), np.int64)
            np.add.at(total, place, np.append(mine, others))
            return total

        return Reliability(
            values,
            sums(self.crops, other.crops),
            sums(self.right, other.right),
            sums(self.target_sum, other.target_sum),
        )

    @property
    def total(self) -> int:
        """How many crops are counted."""
        return int(self.crops.sum())

    @property
    def accuracy(self) -> float:
        """Share of all crops that the teacher has right; NaN of no crops."""
        return float(self.right.sum()) / self.total if self.total else float("nan")

    def only(self, where: NDArray[np.bool_]) -> "Reliability":
        """Return the part of these values, (V,)."""
        return Reliability(
            self.values[where], self.crops[where], self.right[where], self.target_sum[where]
        )

    def quantile(self, share: float) -> float | None:
        """Return the largest value v such that at most `share` of the crops are <= v.

        None where even the smallest value has more of them.
        """
        fits = np.flatnonzero(np.cumsum(self.crops) <= self._allowed(share))
        return float(self.values[fits[-1]]) if len(fits) else None

    def upper_quantile(self, share: float) -> float | None:
        """Return the smallest value v such that at most `share` of the crops are >= v, or None."""
        fits = np.flatnonzero(np.cumsum(self.crops[::-1]) <= self._allowed(share))
        return float(self.values[::-1][fits[-1]]) if len(fits) else None

    def median_right(self) -> float | None:
        """Return the lower median value of the crops that the teacher has right, or None."""
        total = int(self.right.sum())
        if not total:
            return None
        place = np.searchsorted(np.cumsum(self.right), (total + 1) // 2)
        return float(self.values[place])

    def bins(self, num_bins: int) -> Iterator[Bin]:
        """Yield bins of about equally many crops, ascending; equal values are never parted."""
        if not self.total:
            return
        # A value belongs to the bin that the last of its crops falls into.
        number = (np.cumsum(self.crops) - 1) * num_bins // self.total
        ends = np.flatnonzero(np.diff(number, append=num_bins)) + 1
        start = 0
        for stop in ends.tolist():
            crops = int(self.crops[start:stop].sum())
            yield Bin(
                low=float(self.values[start]),
                high=float(self.values[stop - 1]),
                crops=crops,
                right=int(self.right[start:stop].sum()),
                target_prob=int(self.target_sum[start:stop].sum()) / _UNIT / crops,
            )
            start = stop

    def _allowed(self, share: float) -> float:
        # A share such as 0.29 of 100 is 28.999999999999996 in float64; no count is that exact.
        return share * self.total * (1 + 1e-12)

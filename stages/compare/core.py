"""What can be said of a few students an arm: means, deviations, paired differences.

Accuracies are shares in [0, 1]. Nothing here is a claim: with few seeds a standard error is itself
uncertain, and no p-value is given.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.compare.config import STORE, TRUTH
from stages.shared.contract import Json


@dataclass(frozen=True, slots=True)
class Summary:
    """Several seeds' values of one quantity."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1); None for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None for a single value."""
        deviation = self.deviation
        return None if deviation is None else deviation / math.sqrt(len(self.values))

    def spread(self) -> dict[str, Json]:
        """Return mean, std, n and the values, in the order of the seeds."""
        return {
            "mean": round(self.mean, 6),
            "std": _rounded(self.deviation),
            "n": len(self.values),
            "values": [round(value, 6) for value in self.values],
        }

    def difference(self) -> dict[str, Json]:
        """Return mean, standard error and n: what a paired difference is read by."""
        return {
            "mean": round(self.mean, 6),
            "standard_error": _rounded(self.standard_error),
            "n": len(self.values),
        }


def paired(values: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], Summary]:
    """Return the differences, seed by seed, that the arms are compared for.

    ``values`` has each arm's accuracy by seed. Every arm is compared with ``truth``, every
    calibration also with ``store``, as far as those were trained.
    """
    baselines = [arm for arm in (TRUTH, STORE) if arm in values]
    pairs = [
        (arm, baseline)
        for baseline in baselines
        for arm in values
        if arm != baseline and not (arm == TRUTH and baseline == STORE)
    ]
    return {
        (arm, baseline): Summary(
            tuple(a - b for a, b in zip(values[arm], values[baseline], strict=True))
        )
        for arm, baseline in pairs
    }


def percent(share: float, *, signed: bool = False) -> str:
    """Return 66.8 for 0.668, or +66.8."""
    return f"{100 * share:{'+' if signed else ''}.1f}"


def with_error(share: float, error: float | None, *, signed: bool = False) -> str:
    """Return 66.8 ± 1.1, or 66.8 where there is no error to give."""
    tail = "" if error is None else f" ± {percent(error)}"
    return percent(share, signed=signed) + tail


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)

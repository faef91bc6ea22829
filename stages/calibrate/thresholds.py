"""FerKD's intervals: from a preset, from shares of the crops, or chosen from reliability.

`auto` cuts crops into bins of equally many, by the teacher's probability: those of the store
itself, or of a store of validation images. From the least sure bin on

    drop      bins in which the teacher is right no more often than twice by chance: accuracy
              <= min(2 / C, 1/2), at most `drop_lowest` of the crops (0.005 unless given)
    soften    the bins after them in which it is wrong more often than right: accuracy < 1/2, at
              most up to `soften_lowest` of the crops (0.03 unless given)

where shares are always those of the store's own crops, on which the intervals are used. Nothing is
dropped at the top unless `drop_highest` asks for it: how easy a crop may be says
nothing about whether its label is right. FerKD publishes fixed thresholds, this rule is ours.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.calibrate.reliability import Bin, Reliability
from stages.calibrate.steps import MAX_EPS, FerkdStep
from stages.shared.contract import Json
from store.precision import Precision, round_probability

Mask = NDArray[np.bool_]
Shares = Literal["drop_lowest", "soften_lowest", "drop_highest"]

_MOST_BINS = 400
_LEAST_IN_BIN = 100
"""Crops, so that a bin's accuracy is known to about five points."""
_HALF = 0.5
_EPS_WITHOUT_CROPS = 0.1
_LARGEST_EPS = MAX_EPS - 0.01
_LOWEST: tuple[Shares, Shares] = ("drop_lowest", "soften_lowest")
_CAPS: dict[Shares, float] = {"drop_lowest": 0.005, "soften_lowest": 0.03, "drop_highest": 0.0}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """FerKD's intervals on the grid that probabilities are stored on; None is off."""

    drop_up_to: float | None = None
    """Crops up to this probability, inclusive, are dropped (of shares)."""
    drop_below: float | None = None
    """Crops below this probability are dropped."""
    soften_from: float | None = None
    """Of the others, those from this probability on .."""
    soften_to: float | None = None
    """.. up to this one, inclusive, are softened. None: nothing is."""
    drop_from: float | None = None
    """Crops from this probability on are dropped."""

    def groups(self, x: NDArray[np.float32]) -> tuple[Mask, Mask, Mask]:
        """Return which of (N,) probabilities are dropped low, softened, and dropped high.

        NaN (rejected) is none of them.
        """
        low = np.zeros(len(x), dtype=np.bool_)
        if self.drop_up_to is not None:
            low |= x <= np.float32(self.drop_up_to)
        if self.drop_below is not None:
            low |= x < np.float32(self.drop_below)
        soft = np.zeros(len(x), dtype=np.bool_)
        if self.soften_to is not None:
            soft = ~low & (x <= np.float32(self.soften_to))
            soft &= x >= np.float32(self.soften_from or 0.0)
        high = np.zeros(len(x), dtype=np.bool_)
        if self.drop_from is not None:
            high = ~low & ~soft & (x >= np.float32(self.drop_from))
        return low, soft, high

    def to_json(self) -> dict[str, Json]:
        """Return the thresholds as plain JSON."""
        return {name: getattr(self, name) for name in type(self).__dataclass_fields__}


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


def choose(
    step: FerkdStep,
    crops: Reliability,
    judged: Reliability,
    precision: Precision,
    num_classes: int,
) -> Thresholds:
    """Return the intervals of a step on the stored grid.

    Args:
        step: its preset and fields.
        crops: all of the store, by the probability that `FerkdStep.on` names; shares are of these.
        judged: those on which `auto` asks how often the teacher is right.
        precision: of the stored probabilities. Thresholds are rounded as they were, so that a
            probability of exactly .05 lands on the side that is stated.
        num_classes: C.
    """
    if step.preset == "auto":
        return _auto(step, crops, judged, num_classes)
    if step.preset == "ferkd_share" or step.uses_shares:
        given = _PRESET_SHARES if step.preset == "ferkd_share" else {}
        return _from_shares(given | _given_shares(step), crops)
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


def choose_eps(step: FerkdStep, kept_right_median: float | None) -> float:
    """Return eps: as given, or 1 - the median maximum of kept crops that the teacher has right.

    Never as much as 0.5, and 0.1 where no kept crop is right.
    """
    if step.eps != "auto":
        return step.eps
    if kept_right_median is None:
        return _EPS_WITHOUT_CROPS
    return round(min(1 - kept_right_median, _LARGEST_EPS), 6)


def num_bins(total: int) -> int:
    """Return into how many bins so many crops are cut."""
    return max(1, min(_MOST_BINS, total // _LEAST_IN_BIN))


def _given_shares(step: FerkdStep) -> dict[Shares, float]:
    given: dict[Shares, float | None] = {
        "drop_lowest": step.drop_lowest,
        "soften_lowest": step.soften_lowest,
        "drop_highest": step.drop_highest,
    }
    return {name: share for name, share in given.items() if share is not None}


def _on_grid(threshold: float | None, precision: Precision) -> float | None:
    return None if threshold is None else float(round_probability(threshold, precision))


def _from_shares(shares: dict[Shares, float], crops: Reliability) -> Thresholds:
    """Return thresholds that act on at most the shares asked for; ties are never cut in two."""
    return Thresholds(
        drop_up_to=crops.quantile(shares.get("drop_lowest", 0.0)),
        soften_to=crops.quantile(shares.get("soften_lowest", 0.0)),
        drop_from=crops.upper_quantile(shares.get("drop_highest", 0.0)),
    )


def stopped_by(
    step: FerkdStep, crops: Reliability, judged: Reliability, num_classes: int
) -> dict[str, float]:
    """Return the caps that keep `auto` from acting on more crops, by name; as `choose`."""
    if step.preset != "auto":
        return {}
    caps, ends = _CAPS | _given_shares(step), _unreliable(judged, num_classes)
    return {
        name: caps[name]
        for name, end in zip(_LOWEST, ends, strict=True)
        if end is not None and _lower(end, crops.quantile(caps[name])) != end
    }


def _auto(step: FerkdStep, crops: Reliability, judged: Reliability, num_classes: int) -> Thresholds:
    caps = _CAPS | _given_shares(step)
    dropped, bad = _unreliable(judged, num_classes)
    return Thresholds(
        drop_up_to=_lower(dropped, crops.quantile(caps["drop_lowest"])),
        soften_to=_lower(bad, crops.quantile(caps["soften_lowest"])),
        drop_from=crops.upper_quantile(caps["drop_highest"]),
    )


def _unreliable(judged: Reliability, num_classes: int) -> tuple[float | None, float | None]:
    """Return where the leading bins end that are at chance, and those that are below half."""
    bins = list(judged.bins(num_bins(judged.total)))
    by_chance = min(2 / num_classes, _HALF)
    dropped = _leading(bins, lambda each: each.accuracy <= by_chance)
    bad = _leading(bins, lambda each: each.accuracy <= by_chance or each.accuracy < _HALF)
    return dropped, bad


def _leading(bins: list[Bin], is_bad: Callable[[Bin], bool]) -> float | None:
    """Return where the leading bins end that are bad; None where the first is not."""
    ends = [each.high for each in itertools.takewhile(is_bad, bins)]
    return ends[-1] if ends else None


def _lower(limit: float | None, cap: float | None) -> float | None:
    """Return the lower of two limits; None, which takes nothing, is the lowest."""
    return None if limit is None or cap is None else min(limit, cap)

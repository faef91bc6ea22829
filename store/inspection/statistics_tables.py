"""Figures about a store's labels, from the sums of all its parts.

Shapes: C classes, A actions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.codecs import LabelSpec
from store.images import ImageTable
from store.inspection.sizes import ColumnSize, KindSize
from store.inspection.statistics_sums import ACTIONS, GROUPS, RANGE_EDGES


@dataclass(frozen=True, slots=True)
class Range:
    """A row of FerKD's Table 1: crops with a maximum probability in [low, high)."""

    low: float
    high: float
    """The last range has its upper end too."""
    num_crops: int
    share: float
    aggregated: float
    """Share of crops below ``high``."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """How a teacher did on some crops; None where there are none."""

    name: str
    """``all``, or one of FerKD's groups."""
    num_crops: int
    share: float
    accuracy: float | None
    """Share of crops whose most probable class is the ground truth."""
    mean_max_prob: float | None
    mean_target_prob: float | None
    mean_entropy: float | None
    """Of the stored label, in nats."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class of the ground truth; None where it has no labelled crop."""

    class_id: int
    name: str
    num_images: int
    num_crops: int
    """With a label."""
    accuracy: float | None
    mean_max_prob: float | None
    mean_target_prob: float | None
    share_no_crop_right: float | None
    """Share of its images of which no crop's most probable class is the ground truth."""
    actions: dict[str, dict[str, float]]
    """By calibration and action, the share of the class' crops that were not rejected."""


@dataclass(frozen=True, slots=True)
class ActionShare:
    """What one action of a calibration touched. Shares of crops leave rejected ones out."""

    action: str
    num_crops: int
    share: float | None
    """None for `reject`."""
    images_any: int
    """Images with at least one such crop."""
    images_all: int
    """Images with no other crops."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What `store stats` shows. ``ranges`` and ``teacher`` are empty for kind `logits`."""

    root: str
    label: LabelSpec
    num_shards: int
    num_images: int
    num_crops: int
    """All, rejected ones among them."""
    num_rejected: int
    ranges: list[Range]
    teacher: list[Teacher]
    classes: list[ClassFigures]
    calibrations: dict[str, list[ActionShare]]
    reference_bytes_per_crop: int
    """Of this store's kind of label, in the reference's layout."""
    reference: list[KindSize]
    columns: list[ColumnSize]
    undefined: list[str]
    """What does not exist for this kind of label, in words."""


def ranges(counts: NDArray[np.int64]) -> list[Range]:
    """FerKD's Table 1 from crops by range, (12,)."""
    total, upto = max(1, int(counts.sum())), np.cumsum(counts)
    return [
        Range(low, high, int(count), int(count) / total, int(below) / total)
        for low, high, count, below in zip(
            RANGE_EDGES[:-1], RANGE_EDGES[1:], counts, upto, strict=True
        )
    ]


def teacher(sums: Mapping[str, NDArray[Any]]) -> list[Teacher]:
    """The teacher on all crops, then by FerKD's group."""
    counts = sums["group/crops"]
    total = int(counts.sum())
    named = {"all": slice(None), **{name: slice(i, i + 1) for i, name in enumerate(GROUPS)}}
    return [
        Teacher(
            name,
            int(counts[where].sum()),
            int(counts[where].sum()) / max(1, total),
            *(
                _mean(sums[f"group/{key}"][where].sum(), int(counts[where].sum()))
                for key in ("right", "max_prob", "target_prob", "entropy")
            ),
        )
        for name, where in named.items()
    ]


def classes(
    sums: Mapping[str, NDArray[Any]], table: ImageTable, calibrations: Sequence[str]
) -> list[ClassFigures]:
    """One row a class, by class id."""
    crops, in_store = sums["crops"], sums["images"]

    def mean(name: str, class_id: int, of: NDArray[np.int64]) -> float | None:
        return _mean(sums[name][class_id], int(of[class_id])) if name in sums else None

    shares = {name: _action_shares(sums[f"actions/{name}"]) for name in calibrations}
    return [
        ClassFigures(
            class_id,
            name,
            int(in_store[class_id]),
            int(crops[class_id]),
            mean("right", class_id, crops),
            mean("max_prob", class_id, crops),
            mean("target_prob", class_id, crops),
            mean("none_right", class_id, in_store),
            {
                calibration: dict(zip(_NAMES[:-1], map(float, rows[class_id]), strict=True))
                for calibration, rows in shares.items()
            },
        )
        for class_id, name in enumerate(table.class_names)
    ]


_NAMES = tuple(action.name.lower() for action in ACTIONS)
assert _NAMES[-1] == "reject"


def _action_shares(crops: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares of the actions other than reject, (C, A - 1), of (C, A) crops."""
    counts = crops[:, :-1]
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def actions(sums: Mapping[str, NDArray[Any]], calibration: str) -> list[ActionShare]:
    """What a calibration did, a row an action."""
    crops = sums[f"actions/{calibration}"].sum(axis=0)
    total = int(crops[:-1].sum())
    found = zip(
        _NAMES,
        crops,
        sums[f"images_any/{calibration}"],
        sums[f"images_all/{calibration}"],
        strict=True,
    )
    return [
        ActionShare(
            name,
            int(num),
            None if name == "reject" else int(num) / max(1, total),
            int(some),
            int(every),
        )
        for name, num, some, every in found
    ]


def _mean(total: Any, count: int) -> float | None:
    return float(total) / count if count else None

"""Sums over the labels of one part, that add up over parts.

Shapes: N rows (crops of whole images), I images, M crops an image, C classes, A actions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import scan, tables
from store.errors import DataError
from store.inspection.label_rows import LabelRows, label_rows
from store.layout import calibrated
from store.overlay import Action
from store.precision import Precision, round_probability
from store.soft_part import SoftPart

Array = NDArray[Any]
Sums = dict[str, Array]
"""By name: counts (int64) and sums (float64) over crops or images."""

RANGE_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Of FerKD's Table 1. A value on an edge is in the range above it, 1 in the last."""

GROUPS = ("extreme_hard", "moderate_hard", "hard_positive", "easy_positive")
"""FerKD's groups by maximum probability: [0, .05), [.05, .3], (.3, .95) and [.95, 1]."""

ACTIONS = tuple(Action)
_PLACE_OF_ACTION = np.full(256, len(ACTIONS))
_PLACE_OF_ACTION[list(ACTIONS)] = np.arange(len(ACTIONS))


def lower_edge(edge: float, precision: Precision) -> np.float32:
    """The lowest float32 of a range that begins with ``edge``, as stored.

    Stored values lie on a grid, and 0.95 may lie just below or above it: a maximum of 0.95 is then
    stored as the grid's value next to it, and must be in the same range. As float32, 0.95 itself
    is less than the float64 of that name.
    """
    return min(np.float32(edge), np.float32(round_probability(edge, precision)))


def upper_edge(edge: float, precision: Precision) -> np.float32:
    """The highest float32 of a range that ends with ``edge``, as stored; see `lower_edge`."""
    return max(np.float32(edge), np.float32(round_probability(edge, precision)))


def range_of(max_prob: NDArray[np.float32], precision: Precision) -> NDArray[np.intp]:
    """(N,) place in FerKD's Table 1 of each maximum probability."""
    edges = np.array([lower_edge(edge, precision) for edge in RANGE_EDGES[:-1]])
    return np.asarray(np.searchsorted(edges[1:], max_prob, side="right"))


def group_of(max_prob: NDArray[np.float32], precision: Precision) -> NDArray[np.intp]:
    """(N,) place in `GROUPS` of each maximum probability."""
    return np.asarray(
        (max_prob >= lower_edge(0.05, precision)).astype(np.intp)
        + (max_prob > upper_edge(0.3, precision))
        + (max_prob >= lower_edge(0.95, precision))
    )


@dataclass(frozen=True, slots=True)
class PartSums:
    """Counts one part."""

    part: SoftPart
    num_classes: int
    """C, of the images."""
    calibrations: Sequence[str]

    def run(self) -> Sums:
        """Read the part once.

        Raises:
            DataError: a file is missing, damaged, or of other crops.
        """
        total: Sums = {}
        overlays = {name: self._open(name) for name in self.calibrations}
        for rows in label_rows(self.part):
            found = self._labels(rows)
            for name, reader in overlays.items():
                found |= self._actions(name, reader, rows)
            total = add(total, found)
        return total

    def _open(self, name: str) -> scan.RowReader:
        path = self.part.layout.table(calibrated(name), self.part.entry.stem)
        return scan.RowReader(path, ["action"])

    def _labels(self, rows: LabelRows) -> Sums:
        first, per_image = rows.first_class(), (-1, self.part.num_crops)
        is_labelled, right = first >= 0, first == rows.targets
        of_images = rows.targets[:: self.part.num_crops]
        none_right = is_labelled.reshape(per_image).any(axis=1)
        none_right &= ~right.reshape(per_image).any(axis=1)
        found = {
            "rejected": np.array((~is_labelled).sum()),
            "images": self._by_class(of_images),
            "crops": self._by_class(rows.targets[is_labelled]),
        }
        if rows.spec.kind == "logits":
            return found
        precision: Precision = self.part.entry.attributes.get("precision", rows.spec.precision)
        max_prob = rows.max_prob[is_labelled]
        values = {
            "right": right[is_labelled],
            "max_prob": max_prob,
            "target_prob": rows.target_prob[is_labelled],
            "entropy": rows.entropy()[is_labelled],
        }
        targets, groups = rows.targets[is_labelled], group_of(max_prob, precision)
        found["none_right"] = self._by_class(of_images[none_right])
        found["ranges"] = np.bincount(range_of(max_prob, precision), minlength=12)
        found["group/crops"] = np.bincount(groups, minlength=len(GROUPS))
        for name, each in values.items():
            found[name] = self._by_class(targets, each)
            found[f"group/{name}"] = np.bincount(groups, each, minlength=len(GROUPS))
        return found

    def _by_class(self, targets: NDArray[np.int32], weights: Array | None = None) -> Array:
        if targets.size and not 0 <= targets.min() <= targets.max() < self.num_classes:
            path = self.part.layout.entry("soft", self.part.entry.stem)
            raise DataError(
                f"{path} has a target outside of the {self.num_classes} classes of the images; "
                f"run `{self.part.entry.remake}` again"
            )
        return np.bincount(targets, weights, minlength=self.num_classes)

    def _actions(self, name: str, reader: scan.RowReader, rows: LabelRows) -> Sums:
        action = tables.column(reader.take(len(rows.targets)), "action")
        places = _PLACE_OF_ACTION[action]
        if len(action) != len(rows.targets) or (places == len(ACTIONS)).any():
            raise DataError(
                f"{reader.path} has other crops than the labels, or an unknown action; "
                "run `ferkd-pipeline store verify`"
            )
        pairs = rows.targets * len(ACTIONS) + places
        crops = np.bincount(pairs, minlength=self.num_classes * len(ACTIONS))
        taken = places.reshape(-1, self.part.num_crops)[..., None] == np.arange(len(ACTIONS))
        return {
            f"actions/{name}": crops.reshape(-1, len(ACTIONS)),
            f"images_any/{name}": taken.any(axis=1).sum(axis=0),
            f"images_all/{name}": taken.all(axis=1).sum(axis=0),
        }


def add(total: Mapping[str, Array], other: Mapping[str, Array]) -> Sums:
    """Both together; an empty one is neutral."""
    return {
        name: total[name] + other[name] if name in total and name in other else either
        for name, either in {**total, **other}.items()
    }

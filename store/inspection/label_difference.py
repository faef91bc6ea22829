"""How far apart the labels of two stores are.

Shapes: N rows (crops), E entries of a label, F entries of the other, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.inspection.label_rows import LabelRows, label_rows, rows_at_once
from store.soft_part import SoftPart


@dataclass(frozen=True, slots=True)
class LabelsDifference:
    """Labels of parts that both stores have."""

    num_crops: int = 0
    other_label: int = 0
    """Crops with any difference, of being rejected too."""
    other_class: int = 0
    """Crops whose most probable class differs."""
    rejected_in_one: int = 0
    mean_variation: float | None = 0.0
    """Total variation over all classes, tail included, of crops that both have a label of; None
    for kind `logits`, which has no probabilities, and for labels of other numbers of classes."""
    max_variation: float | None = 0.0


@dataclass(slots=True)
class PartLabels:
    """Counts of one part."""

    num_crops: int
    has_variation: bool
    num_compared: int = 0
    """Crops that both have a label of."""
    other_label: int = 0
    other_class: int = 0
    rejected_in_one: int = 0
    sum_variation: float = 0.0
    max_variation: float = 0.0


def compare_labels(one: SoftPart, other: SoftPart) -> PartLabels:
    """Compare the labels of one part, row by row; reads nothing where they are known to be equal.

    Raises:
        DataError: a file is missing or damaged.
    """
    is_probability = "logits" not in (one.spec.kind, other.spec.kind)
    same_classes = one.spec.num_classes == other.spec.num_classes
    found = PartLabels(one.entry.rows, is_probability and same_classes)
    if one.entry.rows_digest == other.entry.rows_digest and one.spec == other.spec:
        rejected = one.entry.numbers.get("num_rejected_crops", 0)
        found.num_compared = one.entry.rows - (rejected if isinstance(rejected, int) else 0)
        return found
    num_rows = rows_at_once(one, other)
    for left, right in zip(label_rows(one, num_rows), label_rows(other, num_rows), strict=True):
        _count(found, left, right)
    return found


def _count(found: PartLabels, left: LabelRows, right: LabelRows) -> None:
    first_a, first_b = left.first_class(), right.first_class()
    in_both = (first_a >= 0) & (first_b >= 0)
    other_class = in_both & (first_a != first_b)
    in_one = (first_a < 0) != (first_b < 0)
    differs = in_one | other_class
    if found.has_variation:
        variation = np.where(in_both, total_variation(left, right), 0.0)
        differs |= variation > 0
        found.sum_variation += float(variation.sum())
        found.max_variation = max(found.max_variation, float(variation.max()))
    elif left.values is not None and right.values is not None:
        is_alike = left.values.shape == right.values.shape
        differs |= in_both & ((left.values != right.values).any(axis=1) if is_alike else True)
    else:
        differs |= in_both
    found.num_compared += int(in_both.sum())
    found.other_class += int(other_class.sum())
    found.rejected_in_one += int(in_one.sum())
    found.other_label += int(differs.sum())


def merge(parts: Sequence[PartLabels]) -> LabelsDifference:
    """Of all parts together."""
    is_defined = all(part.has_variation for part in parts)
    compared = sum(part.num_compared for part in parts)
    return LabelsDifference(
        sum(part.num_crops for part in parts),
        sum(part.other_label for part in parts),
        sum(part.other_class for part in parts),
        sum(part.rejected_in_one for part in parts),
        sum(part.sum_variation for part in parts) / max(1, compared) if is_defined else None,
        max((part.max_variation for part in parts), default=0.0) if is_defined else None,
    )


def total_variation(a: LabelRows, b: LabelRows) -> NDArray[np.float64]:
    """(N,) half the sum over all classes of the differences of two labels; NaN where rejected.

    Of sparse labels over the union of their stored classes, and the difference of the tails for
    each of the other classes.
    """
    if a.sparse is None or b.sparse is None:
        return np.asarray(np.abs(a.dense() - b.dense()).sum(axis=1) / 2)
    (ids_a, weights_a, tail_a), (ids_b, weights_b, tail_b) = a.entries(), b.entries()
    base = tail_a.astype(np.float64) - tail_b
    num_others = np.full(len(base), a.spec.num_classes, dtype=np.float64)
    total = np.zeros(len(base))
    for e in range(ids_a.shape[1]):
        same = ids_b == ids_a[:, e, None]
        difference = base + weights_a[:, e] - np.where(same, weights_b, 0.0).sum(axis=1)
        is_entry = weights_a[:, e] != 0  # where it is 0, the class is one of the others
        total += np.where(is_entry, np.abs(difference), 0.0)
        num_others -= is_entry
    for f in range(ids_b.shape[1]):
        known = ((ids_a == ids_b[:, f, None]) & (weights_a != 0)).any(axis=1)
        is_entry = (weights_b[:, f] != 0) & ~known
        total += np.where(is_entry, np.abs(base - weights_b[:, f]), 0.0)
        num_others -= is_entry
    return np.asarray((total + num_others * np.abs(base)) / 2)

"""What Label Revision must know of the teacher's labels. Shapes: N crops, E entries, C classes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.inspection.label_rows import LabelRows, label_rows
from store.soft_part import SoftPart

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ServedLabels:
    """What Label Revision must know of the teacher's labels, as training will be served them."""

    argmax: NDArray[np.integer]
    """(N,) the teacher's most probable class; -1 in rejected rows."""
    at_target: F64
    """(N,) t_y, the probability of the ground truth."""
    best_other: F64
    """(N,) the largest probability among the other classes."""

    @classmethod
    def from_rows(cls, rows: LabelRows) -> "ServedLabels":
        """Read a block of stored labels."""
        if rows.sparse is None:
            return cls.from_dense(rows.dense(), rows.targets)
        return cls.from_entries(*rows.entries(), rows.targets)

    @classmethod
    def from_entries(
        cls,
        class_ids: NDArray[np.integer],
        weights: F32,
        tail: F32,
        target: NDArray[np.integer],
    ) -> "ServedLabels":
        """Read labels = tail + sum of weights at class_ids, (N, E); the first entry's class is the
        most probable. A class other than the target stands in one entry at most.
        """
        at = class_ids == target[:, None]
        rest = tail.astype(np.float64)
        at_target = rest + np.where(at, weights, 0).sum(axis=1, dtype=np.float64)
        # A class without an entry has the tail alone. Where every class has one the tail is 0.
        best = np.maximum(np.where(at, 0, weights).max(axis=1).astype(np.float64), 0)
        return cls(class_ids[:, 0], at_target, rest + best)

    @classmethod
    def from_dense(cls, probs: NDArray[np.floating], target: NDArray[np.integer]) -> "ServedLabels":
        """Read labels of kind `full`, (N, C), NaN in rejected rows."""
        probs = np.array(probs, dtype=np.float64)
        rejected = np.isnan(probs[:, 0])
        argmax = np.where(rejected, -1, probs.argmax(axis=1))
        rows = np.arange(len(probs))
        at_target = probs[rows, target]
        probs[rows, target] = 0.0 if probs.shape[1] == 1 else -np.inf
        return cls(argmax, at_target, probs.max(axis=1))


def served_labels(part: SoftPart) -> ServedLabels:
    """Read the labels of a part as training will be served them, a block of rows at a time."""
    blocks = [ServedLabels.from_rows(rows) for rows in label_rows(part)]
    if not blocks:
        return ServedLabels(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    return ServedLabels(
        np.concatenate([block.argmax for block in blocks]),
        np.concatenate([block.at_target for block in blocks]),
        np.concatenate([block.best_other for block in blocks]),
    )

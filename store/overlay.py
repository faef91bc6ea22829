"""What calibration says of every crop, and how it changes a label.

Shapes: ... any leading axes (rows, or images and crops), E entries, C classes.

With the teacher's label t, the target y and two weights a and b, the label to train on is

    a * t + b * onehot(y) + (1 - a - b) / C
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Action(IntEnum):
    """What the last step that changed a crop did to it; the column `action`, uint8."""

    KEEP = 0
    DROP = 1
    SOFTEN = 2
    REVISE = 3
    TRUTH = 4
    REJECT = 255


@dataclass(frozen=True, slots=True)
class Overlay:
    """Calibration of N crops, in the order of their labels."""

    action: NDArray[np.uint8]
    """(N,) values of `Action`."""
    teacher_weight: F32
    """(N,) a; NaN where the crop is dropped or rejected."""
    target_weight: F32
    """(N,) b; NaN where the crop is dropped or rejected."""


def combine(
    class_ids: NDArray[np.integer],
    weights: F32,
    tail: F32,
    target: NDArray[np.integer],
    teacher_weight: F32,
    target_weight: F32,
    num_classes: int,
) -> tuple[NDArray[np.integer], F32, F32]:
    """Return the calibrated labels as entries: those given, scaled, and one more for the target.

    A crop kept as it is (a = 1, b = 0) has bit-identical weights and tail, and 0 in the new entry.

    Args:
        class_ids: (..., E) of the teacher's label = tail + sum of weights at class_ids.
        weights: (..., E).
        tail: (...).
        target: broadcasts to (...).
        teacher_weight: (...) a; NaN makes NaN labels.
        target_weight: (...) b.
        num_classes: C.

    Returns:
        class_ids (..., E + 1) of the dtype given, weights (..., E + 1), tail (...).
    """
    a, b, uniform = _shares(teacher_weight, target_weight, num_classes)
    out_ids = np.empty((*class_ids.shape[:-1], class_ids.shape[-1] + 1), dtype=class_ids.dtype)
    out_weights = np.empty(out_ids.shape, dtype=np.float32)
    out_ids[..., :-1] = class_ids
    out_ids[..., -1] = target
    out_weights[..., :-1] = a[..., None] * weights
    out_weights[..., -1] = b
    return out_ids, out_weights, (a * tail + uniform).astype(np.float32)


def combine_dense(
    label: NDArray[np.floating],
    target: NDArray[np.integer],
    teacher_weight: NDArray[np.floating],
    target_weight: NDArray[np.floating],
) -> F64:
    """Return the calibrated labels, (..., C) float64, of dense ones; shapes as in `combine`."""
    a, b, uniform = _shares(teacher_weight, target_weight, label.shape[-1])
    combined = a[..., None] * label + uniform[..., None]
    at_target = np.broadcast_to(np.asarray(target), a.shape)[..., None].astype(np.int64)
    with_target = np.take_along_axis(combined, at_target, axis=-1) + b[..., None]
    np.put_along_axis(combined, at_target, with_target, axis=-1)
    return combined


def _shares(
    teacher_weight: NDArray[np.floating], target_weight: NDArray[np.floating], num_classes: int
) -> tuple[F64, F64, F64]:
    """Return a, b and what every class has of the rest, which float32 may put just below 0."""
    a = np.asarray(teacher_weight, dtype=np.float64)
    b = np.asarray(target_weight, dtype=np.float64)
    return a, b, np.maximum(1.0 - a - b, 0.0) / num_classes

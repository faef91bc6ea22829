"""From the records of a training view to the labels that training consumes.

Shapes: R crops (images x crops of a batch), K stored classes, E entries, C classes.

This is `codecs.to_entries` and `overlay.combine` in fewer operations, for labels of which none is
rejected. Arrays lie class by class, (K, R): then one operation runs over all crops of a batch. The
results are the same bits: what compress stores are multiples of 2**-50, so a float64 holds their
sum exactly, in whatever order it is made.
"""

import numpy as np
from numpy.typing import NDArray

from store.codecs import LabelSpec

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def entries(label: LabelSpec, probs: F64, outside: F64 | None) -> tuple[F32, F32]:
    """Return the entries' weights (E, R) over their tail, and the tail (R,).

    E is K, or K + 1 with ``outside``: the last is the target's.

    Args:
        label: what is stored; of a sparse kind.
        probs: (K, R) stored probabilities.
        outside: (R,) with `include_target`: the target's; NaN where it is among the others.
    """
    total = probs.sum(axis=0)
    is_outside = None if outside is None else ~np.isnan(outside)
    num_free: NDArray[np.int64] | int = label.num_classes - label.num_stored
    if outside is not None and is_outside is not None:
        total += np.where(is_outside, outside, 0.0)
        num_free = num_free - is_outside.astype(np.int64)
    if label.kind in ("hard", "marginal_renorm"):
        num_free = 0
    has_tail = np.asarray(num_free) > 0
    divisor = np.where(has_tail, np.maximum(total, 1.0), total)
    rest = np.where(has_tail, np.maximum(1.0 - total, 0.0), 0.0) / np.maximum(num_free, 1)
    weights = np.empty((len(probs) + (outside is not None), len(total)), np.float32)
    # A sum of 1 or less divides by 1, which changes nothing and takes as long as any division.
    shares = probs if divisor.min(initial=1.0) == divisor.max(initial=1.0) == 1 else probs / divisor
    np.subtract(shares, rest, out=weights[: len(probs)], casting="same_kind")
    if outside is not None and is_outside is not None:
        weights[-1] = np.where(is_outside, outside / divisor - rest, 0.0)
    return weights, rest.astype(np.float32)


def calibrate(weights: F32, tail: F32, shares: tuple[F64, F64], num_classes: int, out: F32) -> F32:
    """Write the calibrated weights of entries into ``out``; returns the calibrated tail (R,).

    Args:
        weights: (E, R) of the teacher's label.
        tail: (R,) likewise.
        shares: a and b (R,) of the calibration.
        num_classes: C.
        out: (E + 1, R) the last is what the target gets beside.
    """
    a, b = shares
    uniform = np.maximum(1.0 - a - b, 0.0) / num_classes
    np.multiply(weights, a, out=out[:-1], casting="same_kind")
    out[-1] = b
    return (a * tail + uniform).astype(np.float32)

"""A batch of labels as training sees it: the sparse form that the loss consumes.

Shapes: B images, m crops an image, E entries a crop, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """Labels of B x m crops after calibration: tail + sum over e of weights_e * onehot(class_e).

    ``tail`` is the probability that every one of the C classes has before entries are added, so a
    weight is what a class has beyond the tail. The same class may stand in several entries: their
    weights add. ``dense`` replaces the three for kind `full`: then E = 0 and tail = 0.
    """

    boxes: NDArray[np.int32]
    """(B, m, 4) top, left, height, width in pixels of the decoded image; may leave it."""
    flips: NDArray[np.bool_]
    """(B, m) whether the crop is mirrored left to right after the resize."""
    class_ids: NDArray[np.int64]
    """(B, m, E)"""
    weights: NDArray[np.float32]
    """(B, m, E) below 0 only where a class has less than the tail (a kept target, rounding)."""
    tail: NDArray[np.float32]
    """(B, m)"""
    targets: NDArray[np.int64]
    """(B,) the ground-truth class."""
    dense: NDArray[np.float32] | None = None
    """(B, m, C) for kind `full`, else None."""

"""A batch of labels: as they are stored, and in the sparse form that the loss consumes.

Shapes: B images, m crops an image, K stored classes, E entries a crop, C classes, P recorded
operations a crop.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RecordedOps:
    """Operations of recorded augmentation on B x m crops, in the order that they act in."""

    codes: NDArray[np.uint8]
    """(B, m, P) which operation; 0: none."""
    levels: NDArray[np.float32]
    """(B, m, P) how strong, in the operation's own unit."""


@dataclass(frozen=True, slots=True)
class FetchedCrops:
    """What the tables of the store say of B x m crops, before decoding and calibration."""

    boxes: NDArray[np.int32]
    """(B, m, 4) top, left, height, width in pixels of the decoded image."""
    flips: NDArray[np.bool_]
    """(B, m)"""
    class_ids: NDArray[np.int32]
    """(B, m, K) most probable first; K is 0 for dense kinds."""
    probs: NDArray[np.float32]
    """(B, m, K) as stored: what they sum to is settled by decoding."""
    outside_probs: NDArray[np.float32] | None = None
    """(B, m) with `include_target`: the target's; NaN where it is among the others."""
    dense: NDArray[np.float16] | None = None
    """(B, m, C) of dense kinds, as stored."""
    ops: RecordedOps | None = field(default=None, kw_only=True)
    """What was done to the crops' pixels before the teacher saw them; None: nothing is recorded."""


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """Labels of B x m crops after calibration: tail + sum over e of weights_e * onehot(class_e).

    ``tail`` is the probability that every one of the C classes has before entries are added, so a
    weight is what a class has beyond the tail. The same class may stand in several entries: their
    weights add. ``dense`` replaces the three for the dense kinds: then E = 0 and tail = 0. E is
    what the kind stores, and one more (the target's) where the view has a calibration.
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
    """(B, m, C) for the dense kinds, else None: probabilities of kind `full`; of kind `logits` the
    stored values themselves, before any softmax, C being the outputs of the projection head."""
    ops: RecordedOps | None = None
    """What was done to the crops' pixels before the teacher saw them; None: the store has none."""

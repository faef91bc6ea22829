"""A batch of labels: as they are stored, and in the sparse form that the loss consumes.

Shapes: B images, m crops an image, K stored classes, E entries a crop, C classes, P recorded
operations a crop.
"""

from dataclasses import dataclass, field
from typing import Any

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
class RecordedMix:
    """What B x m crops are mixed with, each with one crop of another image; see `store.mixing`."""

    kinds: NDArray[np.uint8]
    """(B, m) how; 0: not at all."""
    shares: NDArray[np.float32]
    """(B, m) of the crop's own image, 0 to 1; 1 where it is not mixed."""
    partner_ids: NDArray[np.int32]
    """(B, m) the other image; -1 where there is none."""
    boxes: NDArray[np.int32]
    """(B, m, 4) top, left, height, width in pixels of the other image; 0 where there is none."""
    flips: NDArray[np.bool_]
    """(B, m) whether what is cut out of the other image is mirrored."""
    cuts: NDArray[np.int16]
    """(B, m, 4) top, left, height, width of CutMix's box in 1/256 of the crop's sides; else 0."""

    def at(self, index: Any) -> "RecordedMix":
        """Of the crops that an index of (B, m) takes."""
        return RecordedMix(
            self.kinds[index],
            self.shares[index],
            self.partner_ids[index],
            self.boxes[index],
            self.flips[index],
            self.cuts[index],
        )

    def flat(self) -> "RecordedMix":
        """Of B x m crops in a row: (B m,) and (B m, 4)."""
        return self.reshape(self.kinds.size)

    def reshape(self, *shape: int) -> "RecordedMix":
        """With another shape of as many crops in place of (B, m)."""
        return RecordedMix(
            self.kinds.reshape(shape),
            self.shares.reshape(shape),
            self.partner_ids.reshape(shape),
            self.boxes.reshape(*shape, 4),
            self.flips.reshape(shape),
            self.cuts.reshape(*shape, 4),
        )


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
    mix: RecordedMix | None = field(default=None, kw_only=True)
    """What they were mixed with before that; None: nothing is recorded."""


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
    mix: RecordedMix | None = None
    """What they were mixed with before that; None: the store mixes nothing."""
    partner_targets: NDArray[np.int64] | None = None
    """(B, m) with ``mix``: the ground-truth class of what is mixed in; where nothing is, the
    crop's own."""

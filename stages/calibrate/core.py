"""The second phase of calibrate: the verdict on every crop of a shard, arrays to arrays.

Shapes: N crops of one shard, E entries, C classes.

A crop's label is a * t + b * onehot(y) + (1 - a - b) / C, with t the teacher's label as stored and
y the ground truth. Steps compose in order, each seeing the current (a, b):

    soften   (a, b) -> (0, 1 - eps C / (C - 1)), or (eps, 1 - eps) with spread: teacher
    revise   (a, b) -> (beta a, beta b + 1 - beta)
    truth    (a, b) -> (0, 1)
    drop     absorbs: no step changes a dropped crop
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.calibrate.config import FerkdStep, ReviseStep, Step
from stages.calibrate.counts import Counts, count
from stages.calibrate.fit import Fit, Thresholds
from store.overlay import Action, Overlay

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


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
    def from_entries(
        cls,
        class_ids: NDArray[np.integer],
        weights: F32,
        tail: F32,
        target: NDArray[np.integer],
        num_classes: int,
    ) -> "ServedLabels":
        """Read labels = tail + sum of weights at class_ids, (N, E); the first entry's class is the
        most probable. A class other than the target stands in one entry at most.
        """
        at = class_ids == target[:, None]
        rest = tail.astype(np.float64)
        at_target = rest + np.where(at, weights, 0).sum(axis=1, dtype=np.float64)
        best = np.where(at, -np.inf, weights).max(axis=1).astype(np.float64)
        # A class without an entry has the tail: is there one beside the target?
        num_others = class_ids.shape[1] - at.sum(axis=1)
        best = np.where(num_others < num_classes - 1, np.maximum(best, 0), best)
        return cls(class_ids[:, 0], at_target, np.where(np.isneginf(best), 0, rest + best))

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


@dataclass(frozen=True, slots=True)
class Crops:
    """The crops of one shard, whole images, sorted by image."""

    image_ids: NDArray[np.integer]
    """(N,) ascending."""
    targets: NDArray[np.integer]
    """(N,) ground-truth classes."""
    max_prob: F32
    """(N,) the teacher's maximum at T=1 before compression, on its grid; NaN where rejected."""
    num_classes: int
    labels: ServedLabels | None = None
    """Needed where `needs_labels` says so."""


def needs_labels(steps: Sequence[Step]) -> bool:
    """Whether a step looks at the labels, and not only at the stored maximum."""
    return any(isinstance(step, ReviseStep) for step in steps)


def apply(steps: Sequence[Step], fit: Fit, crops: Crops) -> tuple[Overlay, Counts]:
    """Return the verdict on every crop, and how many there are of each.

    An image whose crops are all dropped keeps them as softened ground truth.

    Args:
        steps: of one recipe.
        fit: of the same recipe, over all shards.
        crops: of one shard; `labels` given where `needs_labels(steps)`.
    """
    state = _State.start(crops)
    groups: dict[str, int] = {}
    restored = np.zeros(len(crops.max_prob), dtype=np.bool_)
    softening: FerkdStep | None = None
    for step, thresholds in zip(steps, fit.thresholds, strict=True):
        if isinstance(step, FerkdStep):
            assert thresholds is not None, "a fit of other steps"
            groups, softening = _ferkd(state, step, thresholds, crops), step
        elif isinstance(step, ReviseStep):
            assert crops.labels is not None, "needs_labels said that labels are needed"
            _revise(state, step, crops, crops.labels)
        else:
            state.set(state.open, Action.TRUTH, 0.0, 1.0)
    if softening is not None:
        restored = _restore(state, softening, crops)
    overlay = state.overlay()
    return overlay, count(overlay, groups, restored, crops.image_ids)


@dataclass(slots=True)
class _State:
    action: NDArray[np.uint8]
    a: F64
    b: F64

    @classmethod
    def start(cls, crops: Crops) -> "_State":
        """Every crop is kept, but those without a prediction."""
        rejected = np.isnan(crops.max_prob)
        action = np.where(rejected, Action.REJECT, Action.KEEP).astype(np.uint8)
        return cls(action, np.ones(len(action)), np.zeros(len(action)))

    @property
    def open(self) -> Mask:
        """(N,) crops that steps may still change."""
        return np.asarray((self.action != Action.DROP) & (self.action != Action.REJECT))

    def set(self, where: Mask, action: Action, a: F64 | float, b: F64 | float) -> None:
        self.action[where] = action
        self.a[where] = a
        self.b[where] = b

    def overlay(self) -> Overlay:
        teacher, target = self.a.astype(np.float32), self.b.astype(np.float32)
        teacher[~self.open] = np.nan
        target[~self.open] = np.nan
        return Overlay(self.action, teacher, target)


def _ferkd(state: _State, step: FerkdStep, limits: Thresholds, crops: Crops) -> dict[str, int]:
    """Drop and soften by the maximum; return the sizes of FerKD's four groups."""
    x = crops.max_prob
    low = np.zeros(len(x), dtype=np.bool_)
    if limits.drop_up_to is not None:
        low |= x <= np.float32(limits.drop_up_to)
    if limits.drop_below is not None:
        low |= x < np.float32(limits.drop_below)
    soft = np.zeros(len(x), dtype=np.bool_)
    if limits.soften_to is not None:
        soft = ~low & (x <= np.float32(limits.soften_to))
        soft &= x >= np.float32(limits.soften_from or 0.0)
    high = np.zeros(len(x), dtype=np.bool_)
    if limits.drop_from is not None:
        high = ~low & ~soft & (x >= np.float32(limits.drop_from))
    num_rejected = int((state.action == Action.REJECT).sum())
    sizes = [int(mask.sum()) for mask in (low, soft, high)]
    state.set(soft & state.open, Action.SOFTEN, *_softened(step, crops.num_classes))
    state.set((low | high) & state.open, Action.DROP, 0.0, 0.0)
    return {
        "extreme_hard": sizes[0],
        "moderate_hard": sizes[1],
        "hard_positive": len(x) - num_rejected - sum(sizes),
        "easy_positive": sizes[2],
    }


def _softened(step: FerkdStep, num_classes: int) -> tuple[float, float]:
    """Return (a, b) of a softened label; with one class it is that class."""
    if step.spread == "teacher":
        return step.eps, 1 - step.eps
    return 0.0, 1 - step.eps * num_classes / (num_classes - 1) if num_classes > 1 else 1.0


def _revise(state: _State, step: ReviseStep, crops: Crops, labels: ServedLabels) -> None:
    """Mix the ground truth into the current labels: beta = eta / (t_max - t_y + 1).

    "Improve Knowledge Distillation via Label Revision and Data Selection", with t the label as it
    is served so far: a revised label's margin is then 1 - eta whatever was stored of it.
    """
    a, b = state.a, state.b
    # How far the best other class leads; what all classes have alike falls out.
    lead = a * (labels.best_other - labels.at_target) - b
    # An untouched label is wrong by the unrounded order, which a tie of stored values cannot hide.
    wrong = np.where(b == 0, (a > 0) & (labels.argmax != crops.targets), lead > 0)
    where = state.open & (wrong if step.where == "wrong" else True)
    beta = step.eta / (np.maximum(lead[where], 0.0) + 1)
    state.set(where, Action.REVISE, beta * a[where], beta * b[where] + 1 - beta)


def _restore(state: _State, step: FerkdStep, crops: Crops) -> Mask:
    """Soften the crops of images that lost all of theirs; return which, (N,)."""
    if not len(crops.image_ids):
        return np.zeros(0, dtype=np.bool_)
    first = np.flatnonzero(np.diff(crops.image_ids, prepend=crops.image_ids[0] - 1))
    dropped = state.action == Action.DROP
    lost = np.add.reduceat(state.open, first, dtype=np.int64) == 0
    restored: Mask = dropped & np.repeat(lost, np.diff(np.append(first, len(dropped))))
    state.set(restored, Action.SOFTEN, *_softened(step, crops.num_classes))
    return restored

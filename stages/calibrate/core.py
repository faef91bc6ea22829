"""The second phase of calibrate: the verdict on every crop of a shard, arrays to arrays.

Shapes: N crops of one shard, C classes.

A crop's label is a * t + b * onehot(y) + (1 - a - b) / C, with t the teacher's label as stored and
y the ground truth. Steps compose in order, each seeing the current (a, b):

    noise    suspects images; later steps write no ground truth into their labels
    select   (a, b) -> (lambda a, lambda b + 1 - lambda) for selected images, else (0, 1)
    revise   (a, b) -> (beta a, beta b + 1 - beta)
    soften   (a, b) -> (0, 1 - eps C / (C - 1)), or (eps, 1 - eps) with spread: teacher
    truth    (a, b) -> (0, 1)
    drop     absorbs: no step changes a dropped crop
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.calibrate import suspects
from stages.calibrate.counts import Counts
from stages.calibrate.crops import Crops
from stages.calibrate.fit import Fit, StepFit
from stages.calibrate.steps import FerkdStep, NoiseStep, ReviseStep, SelectStep, Step
from stages.calibrate.suspects import Suspects
from store.overlay import Action, Overlay

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a recipe says of a shard's crops."""

    overlay: Overlay
    counts: Counts
    suspects: Suspects | None
    """None without the step noise."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What steps must know of every crop beside its maximum probability."""

    labels: bool
    target_prob: bool
    top_class: bool


def needs(steps: Sequence[Step]) -> Needs:
    """Return which fields of `Crops` the steps look at."""
    is_noise = any(isinstance(step, NoiseStep) for step in steps)
    on_target = any(isinstance(step, FerkdStep) and step.on == "target" for step in steps)
    labels = any(isinstance(step, ReviseStep) for step in steps)
    return Needs(labels=labels, target_prob=is_noise or on_target, top_class=is_noise)


def apply(steps: Sequence[Step], fit: Fit, crops: Crops) -> Verdict:
    """Return the verdict on every crop, and how many there are of each.

    An image whose crops are all dropped keeps them as softened ground truth; one that is suspected,
    or of a store whose crops are mixed, keeps the teacher's labels.

    Args:
        steps: of one recipe.
        fit: of the same recipe, over all shards.
        crops: of one shard, with what `needs(steps)` asks for.
    """
    state = _State.start(crops)
    found: Suspects | None = None
    groups: dict[str, int] = {}
    restored = np.zeros(len(crops.max_prob), dtype=np.bool_)
    softening: tuple[float, float] | None = None
    for step, fitted in zip(steps, fit.steps, strict=True):
        if isinstance(step, NoiseStep):
            found = suspects.find(step, crops)
            state.suspected = suspects.rows_of(found, crops)
        elif isinstance(step, SelectStep):
            _select(state, step, crops)
        elif isinstance(step, ReviseStep):
            _revise(state, step, crops)
        elif isinstance(step, FerkdStep):
            softening = _softened(step, fitted, crops.num_classes)
            groups = _ferkd(state, step, fitted, softening, crops)
        else:
            state.write(state.open, Action.TRUTH, 0.0, 1.0)
    if softening is not None:
        restored = _restore(state, softening, crops)
    overlay = state.overlay()
    return Verdict(overlay, _count(overlay, groups, restored, crops, found), found)


@dataclass(slots=True)
class _State:
    action: NDArray[np.uint8]
    a: F64
    b: F64
    suspected: Mask
    """(N,) crops of images whose ground truth is in doubt; all where crops are mixed."""

    @classmethod
    def start(cls, crops: Crops) -> "_State":
        """Every crop is kept, but those without a prediction."""
        rejected = crops.rejected
        action = np.where(rejected, Action.REJECT, Action.KEEP).astype(np.uint8)
        in_doubt = np.full(len(action), crops.is_mixed, dtype=np.bool_)
        return cls(action, np.ones(len(action)), np.zeros(len(action)), in_doubt)

    @property
    def open(self) -> Mask:
        """(N,) crops that steps may still change."""
        return np.asarray((self.action != Action.DROP) & (self.action != Action.REJECT))

    def drop(self, where: Mask) -> None:
        """Drop crops (N,) that are open."""
        self.action[where & self.open] = Action.DROP

    def write(self, where: Mask, action: Action, a: F64 | float, b: F64 | float) -> None:
        """Mix ground truth into the labels of crops (N,), but of images where it is in doubt.

        ``a`` and ``b`` are (N,) or one for all.
        """
        where = where & ~self.suspected
        self.action[where] = action
        self.a[where] = a[where] if isinstance(a, np.ndarray) else a
        self.b[where] = b[where] if isinstance(b, np.ndarray) else b

    def overlay(self) -> Overlay:
        teacher, target = self.a.astype(np.float32), self.b.astype(np.float32)
        teacher[~self.open] = np.nan
        target[~self.open] = np.nan
        return Overlay(self.action, teacher, target)


def _select(state: _State, step: SelectStep, crops: Crops) -> None:
    """Teach selected images with the teacher, by a weight, and the others with ground truth."""
    assert crops.is_taught is not None, "the step select needs scores"
    share = step.teacher_weight
    if share < 1:
        taught = state.open & crops.is_taught
        state.write(taught, Action.REVISE, share * state.a, share * state.b + 1 - share)
    state.write(state.open & ~crops.is_taught, Action.TRUTH, 0.0, 1.0)


def _ferkd(
    state: _State,
    step: FerkdStep,
    fitted: StepFit,
    softening: tuple[float, float],
    crops: Crops,
) -> dict[str, int]:
    """Drop and soften by the teacher's probability; return the sizes of FerKD's four groups."""
    assert fitted.thresholds is not None, "a fit of other steps"
    low, soft, high = fitted.thresholds.groups(crops.probability(step.on))
    num_rejected = int((state.action == Action.REJECT).sum())
    sizes = [int(mask.sum()) for mask in (low, soft, high)]
    state.write(soft & state.open, Action.SOFTEN, *softening)
    state.drop(low | high)
    return {
        "extreme_hard": sizes[0],
        "moderate_hard": sizes[1],
        "hard_positive": len(low) - num_rejected - sum(sizes),
        "easy_positive": sizes[2],
    }


def _softened(step: FerkdStep, fitted: StepFit, num_classes: int) -> tuple[float, float]:
    """Return (a, b) of a softened label; with one class it is that class."""
    assert fitted.eps is not None, "a fit of other steps"
    if step.spread == "teacher":
        return fitted.eps, 1 - fitted.eps
    return 0.0, 1 - fitted.eps * num_classes / (num_classes - 1) if num_classes > 1 else 1.0


def _revise(state: _State, step: ReviseStep, crops: Crops) -> None:
    """Mix the ground truth into the current labels: beta = eta / (t_max - t_y + 1).

    "Improve Knowledge Distillation via Label Revision and Data Selection", with t the label as it
    is served so far: a revised label's margin is then 1 - eta whatever was stored of it.
    """
    labels = crops.labels
    assert labels is not None, "needs(steps) said that labels are needed"
    a, b = state.a, state.b
    # How far the best other class leads; what all classes have alike falls out.
    lead = a * (labels.best_other - labels.at_target) - b
    # An untouched label is wrong by the unrounded order, which a tie of stored values cannot hide.
    wrong = np.where(b == 0, (a > 0) & (labels.argmax != crops.targets), lead > 0)
    where = state.open & (wrong if step.where == "wrong" else True)
    beta = step.eta / (np.maximum(lead, 0.0) + 1)
    state.write(where, Action.REVISE, beta * a, beta * b + 1 - beta)


def _restore(state: _State, softening: tuple[float, float], crops: Crops) -> Mask:
    """Take back the crops of images that lost all of theirs; return which, (N,)."""
    if not len(crops.image_ids):
        return np.zeros(0, dtype=np.bool_)
    dropped = state.action == Action.DROP
    lost = np.add.reduceat(state.open, crops.first, dtype=np.int64) == 0
    restored: Mask = dropped & np.repeat(lost, crops.per_image)
    state.action[restored] = Action.KEEP
    state.a[restored], state.b[restored] = 1.0, 0.0
    state.write(restored, Action.SOFTEN, *softening)
    return restored


def _count(
    overlay: Overlay,
    groups: dict[str, int],
    restored: Mask,
    crops: Crops,
    found: Suspects | None,
) -> Counts:
    sizes = np.bincount(overlay.action, minlength=256)
    return Counts(
        actions={action.name.lower(): int(sizes[action]) for action in Action},
        images=crops.images_by_action(overlay.action),
        groups=groups,
        num_images=len(crops.first),
        restored_images=crops.images_with(restored),
        restored_crops=int(restored.sum()),
        suspected_images=None if found is None else len(found),
        taught_images=None if crops.is_taught is None else crops.images_with(crops.is_taught),
    )

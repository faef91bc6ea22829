"""A whole training: steps, evaluations along the way, checkpoints, and what can be watched."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from stages.shared.contract import Progress
from stages.shared.model_config import PixelSpec
from stages.shared.training.batches import CropSource
from stages.shared.training.checkpoint import Checkpoints
from stages.shared.training.config import TrainingConfig
from stages.shared.training.evaluation import Evaluator
from stages.shared.training.history import History
from stages.shared.training.mixing import is_off
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.ranks import Ranks
from stages.shared.training.tracking import Tracking, open_tracker
from stages.shared.training.trainer import Trainer
from store.errors import DataError, RetryError

_QUICK_SECONDS = 1.0
_MAX_TRACKED = 1000
"""Points of a tracked curve, about."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where an unfinished training leaves what only it needs."""

    checkpoints: Checkpoints | None = None
    """None: a killed training begins anew."""
    live: Path | None = None
    """Folder for what trackers write while it trains."""


def fit(
    module: nn.Module,
    spec: PixelSpec,
    source: CropSource,
    config: TrainingConfig,
    *,
    evaluator: Evaluator | None = None,
    teacher: OnlineTeacher | None = None,
    progress: Progress,
    label: str = "train",
    ranks: Ranks | None = None,
    places: Places | None = None,
    classifier_only: bool = False,
    tells: bool = False,
) -> History:
    """Train ``module`` in place as ``config`` says; it ends in evaluation mode, on the device.

    With ``tells`` every evaluation but the last is told while it trains.

    A training that was killed goes on from its last checkpoint. Only the first of several ranks
    evaluates, saves and tracks.

    Raises:
        ParamsError: the optimizer, the device or the precision cannot be had, or the loss or the
            mixing does not suit labels or teacher.
        ShardError: a loss or an output is not finite.
        DataError: an image is missing, damaged or changed, or a checkpoint is damaged or of
            another training.
        RetryError: an image could not be read this time, or a process that reads died.
    """
    ranks, places = ranks or Ranks(), places or Places()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        trainer = Trainer(
            module,
            spec,
            source,
            config,
            teacher=teacher,
            ranks=ranks,
            classifier_only=classifier_only,
        )
        saved = _Saved(trainer, places.checkpoints)
        saved.take_up(progress, label)
        progress.start(label, trainer.num_steps, "steps")
        progress.advance(trainer.steps_done)
        if is_off(config):
            progress.note(f"{label}: mix is selfmix, but crops_per_image is 1: nothing is mixed")
        names = config.track if places.live is not None and ranks.is_first else ()
        tracking = open_tracker(names, places.live or Path(), resume_at=trainer.steps_done)
        try:
            tell = partial(_note, progress, label) if tells else None
            _run(trainer, evaluator, progress, saved, _Curve(trainer, tracking), tell)
        except KeyboardInterrupt:
            if saved.is_quick:
                saved.save_what_is_whole()
            raise
        finally:
            tracking.close()
    try:
        saved.save()
    except OSError as error:  # what it would protect is about to be published
        progress.note(f"{label}: its last checkpoint could not be saved ({error})")
    trainer.finish()
    return trainer.history


def _note(progress: Progress, label: str, message: str) -> None:
    progress.note(f"{label}: {message}")


def _run(
    trainer: Trainer,
    evaluator: Evaluator | None,
    progress: Progress,
    saved: "_Saved",
    curve: "_Curve",
    tell: Callable[[str], None] | None,
) -> None:
    def look() -> None:
        curve.look()
        saved.look()

    every = trainer.config.eval_every or trainer.num_steps
    evaluated = max((step for step, _ in trainer.history.evaluations), default=0)
    while True:
        step, end = trainer.steps_done, trainer.num_steps
        if (step == end or step % every == 0) and step > evaluated:
            if evaluator is not None and trainer.ranks.is_first:
                accuracy = evaluator(trainer.measured, trainer.device)
                trainer.history.evaluations.append((step, accuracy))
                curve.evaluated(evaluator.name)
                if tell is not None and step < end:
                    tell(
                        f"step {step:,}: loss {_recent(trainer.history, every):.4g}, top-1 "
                        f"{100 * accuracy.top1:.1f} % on {evaluator.name}"
                    )
            trainer.ranks.wait()
            evaluated = step
        if step == end:
            return
        goal = min((step // every + 1) * every, end)
        try:
            trainer.advance(goal - step, progress, look)
        except (DataError, RetryError):  # not where it diverged
            saved.save_what_is_whole()
            raise
        curve.look()


def _recent(history: History, steps: int) -> float:
    """Mean loss of the last steps."""
    return statistics.fmean(history.losses[-steps:])


class _Saved:
    """Checkpoints of one training: when they are due, and the one to begin with."""

    def __init__(self, trainer: Trainer, checkpoints: Checkpoints | None) -> None:
        minutes = trainer.config.checkpoint_minutes
        self._trainer = trainer
        self._checkpoints = None if minutes is None else checkpoints
        self._seconds = 60 * (minutes or 0)
        self._last = time.monotonic()
        self._took = 0.0

    @property
    def is_quick(self) -> bool:
        """Whether one who wants it to end at once can wait for a checkpoint, as far as is known."""
        return self._took < _QUICK_SECONDS

    def take_up(self, progress: Progress, label: str) -> None:
        """Go on where an earlier process stopped."""
        if self._checkpoints is None:
            return
        state, ranks = self._checkpoints.load(), self._trainer.ranks
        done = 0 if state is None else len(state["history"]["lrs"])
        if ranks.told_number(done) != done:
            raise DataError(
                "the processes of this training see different checkpoints: put the project on a "
                "file system that all of them share"
            )
        if state is not None:
            self._trainer.load(state)
            progress.note(f"{label}: goes on after step {self._trainer.steps_done:,}")

    def look(self) -> None:
        """Save if it is time; between two steps, on all ranks alike."""
        if self._checkpoints is None:
            return
        is_due = time.monotonic() - self._last >= self._seconds
        if self._trainer.ranks.told(is_due):
            self.save()

    def save(self) -> None:
        """Save now, on the first rank."""
        begun = time.monotonic()
        if self._checkpoints is not None and self._trainer.ranks.is_first:
            self._checkpoints.save(self._trainer.state())
        self._last = time.monotonic()
        self._took = self._last - begun

    def save_what_is_whole(self) -> None:
        """Save after a failure between two steps, where this process alone can tell."""
        if self._trainer.is_whole and self._trainer.ranks.count == 1:
            self.save()


class _Curve:
    """Losses and accuracies for trackers, thinned out."""

    def __init__(self, trainer: Trainer, tracking: Tracking) -> None:
        self._trainer = trainer
        self._tracking = tracking
        self._every = max(1, trainer.num_steps // _MAX_TRACKED)
        self._done = trainer.steps_done

    def look(self) -> None:
        """Log the mean loss since the last time, if that is long enough ago."""
        history = self._trainer.history
        step = len(history.losses)
        if step - self._done >= self._every or (step == self._trainer.num_steps > self._done):
            loss = statistics.fmean(history.losses[self._done : step])
            self._tracking.log(step, {"train/loss": loss, "train/lr": history.lrs[step - 1]})
            self._done = step

    def evaluated(self, name: str) -> None:
        """Log the last evaluation, on the set of that name."""
        step, accuracy = self._trainer.history.evaluations[-1]
        self._tracking.log(step, {f"{name}/top1": accuracy.top1, f"{name}/top5": accuracy.top5})

"""Learning rates as pure functions of the step: no state, so any step can be asked for.

Steps count from 0; a run of ``num_steps`` asks for 0 .. num_steps - 1. ``num_steps`` may be a
fraction where epochs do not fill whole steps; it is only divided by.
"""

import math
from collections.abc import Callable

from stages.shared.training.config import TrainingConfig
from stages.shared.training.passes import Passes

Schedule = Callable[[int], float]
"""Step to learning rate."""

_ONE_CYCLE_RISE = 0.3  # these three are torch's OneCycleLR defaults
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1 / 25e4


def constant(lr: float) -> Schedule:
    """Return ``lr`` at every step."""
    return lambda step: lr


def cosine(lr: float, num_steps: float, final_lr: float = 0.0) -> Schedule:
    """Return half a cosine wave from ``lr`` at step 0 to ``final_lr`` at ``num_steps``."""
    return lambda step: _half_wave(lr, final_lr, step / num_steps)


def serrated(lr: float, num_epochs: float, passes: Passes) -> Schedule:
    """Return FKD's serrated cosine: constant within a pass over the images, then a tooth down.

    A pass that gives every image m crops counts as m epochs of ``num_epochs``, all with the
    learning rate of the first of them, e: lr (1 + cos(pi e / E)) / 2. A step belongs to the pass of
    its first image.
    """
    return lambda step: _half_wave(lr, 0.0, min(1.0, passes.turn_of(step).first / num_epochs))


def multi_step(lr: float, num_steps: float, decay_at: tuple[float, ...], factor: float) -> Schedule:
    """Return ``lr``, times ``factor`` from each share of the run in ``decay_at`` on."""
    return lambda step: lr * factor ** sum(step >= share * num_steps for share in decay_at)


def one_cycle(lr: float, num_steps: int) -> Schedule:
    """Return a rise from lr/25 to ``lr`` over 30 % of the run, then a fall to lr/250000 at its end.

    Both are half cosine waves, as in Smith & Topin 2017 and torch's OneCycleLR (whose learning
    rates these are, step for step); momentum stays.
    """
    top, last = max(1e-9, _ONE_CYCLE_RISE * num_steps - 1), num_steps - 1

    def rate(step: int) -> float:
        if step <= top:
            return _half_wave(lr * _ONE_CYCLE_START, lr, step / top)
        return _half_wave(lr, lr * _ONE_CYCLE_END, (step - top) / (last - top))

    return rate


def warmed_up(schedule: Schedule, warmup_steps: float, warmup_lr: float) -> Schedule:
    """Return ``schedule`` with its first ``warmup_steps`` replaced by a line.

    The line goes from ``warmup_lr`` at step 0 to what ``schedule`` says at step ``warmup_steps``:
    the wave itself does not move.
    """
    if warmup_steps <= 0:
        return schedule
    end = schedule(math.ceil(warmup_steps))

    def rate(step: int) -> float:
        if step >= warmup_steps:
            return schedule(step)
        return warmup_lr + (end - warmup_lr) * step / warmup_steps

    return rate


def make_schedule(config: TrainingConfig, num_images: int) -> Schedule:
    """Return the learning rate that ``config`` asks for on ``num_images`` training images."""
    passes = config.passes(num_images)
    num_steps = passes.num_steps
    num_epochs = config.epochs or num_steps * config.batch_size / num_images
    schedules: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: constant(config.lr),
        "cosine": lambda: cosine(config.lr, num_steps, config.final_lr),
        "step": lambda: multi_step(config.lr, num_steps, config.decay_at, config.decay_factor),
        "one_cycle": lambda: one_cycle(config.lr, num_steps),
        "serrated": lambda: serrated(config.lr, num_epochs, passes),
    }
    warmup = config.num_warmup_steps(num_images)
    return warmed_up(schedules[config.schedule](), warmup, config.warmup_lr)


def _half_wave(start: float, end: float, share: float) -> float:
    """Return the height at ``share`` of the way down (or up) half a cosine wave."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

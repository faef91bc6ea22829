"""One watcher an estimator: when it looks at a proxy and what it makes of what it sees.

Shapes: N images, B images of a batch, C classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.score import core
from stages.score.config import El2n, Forgetting
from stages.score.labels import TeacherLabels
from stages.score.proxies import Look
from stages.shared.contract import Progress

Judge = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float64]]
"""Scores (B,) of images (B,) by the proxy's logits (B, C) for them."""


class Outputs:
    """Scores of a proxy's outputs at one step; over several proxies, their mean."""

    reads_outputs = True

    def __init__(self, num_images: int, judge: Judge, at_step: Callable[[int], int]) -> None:
        """``at_step`` tells the step from the length of the training."""
        self._judge, self._at_step = judge, at_step
        self._sums = np.full(num_images, np.nan)
        self._num_looks = 0
        self._last: Look | None = None

    def steps(self, num_steps: int) -> Sequence[int]:
        """One step."""
        return [self._at_step(num_steps)]

    def outputs(self, look: Look, rows: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Judge each image."""
        judged = self._judge(rows, logits)
        self._sums[rows] = judged + (self._sums[rows] if self._num_looks else 0.0)

    def network(self, look: Look, progress: Progress) -> None:
        """One proxy more."""
        self._num_looks += 1

    def scores(self) -> NDArray[np.float64]:
        """Return the mean (N,); NaN where there is none."""
        return self._sums / max(1, self._num_looks)


class Forgets:
    """How often each image was forgotten between looks at equal distances."""

    reads_outputs = True

    def __init__(self, config: Forgetting, targets: NDArray[np.integer]) -> None:
        self._config, self._targets = config, targets
        self._forgotten = core.Forgotten(len(targets))
        self._is_seen = np.zeros(len(targets), dtype=np.bool_)
        self._num_looks = 0

    def steps(self, num_steps: int) -> Sequence[int]:
        """Every so many steps, and the last one."""
        every = self._config.look_every or max(1, num_steps // 20)
        return [*range(every, num_steps, every), num_steps]

    def outputs(self, look: Look, rows: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Note which images are right."""
        self._forgotten.look(rows, logits.argmax(axis=1) == self._targets[rows])
        self._is_seen[rows] = True

    def network(self, look: Look, progress: Progress) -> None:
        """One look more."""
        self._num_looks += 1

    def scores(self) -> NDArray[np.float64]:
        """Return the counts (N,); NaN where an image was never seen."""
        return np.where(self._is_seen, self._forgotten.scores(self._num_looks), np.nan)


def loss(targets: NDArray[np.integer]) -> Outputs:
    """Watch for the loss at the end of the training; ``targets`` are (N,)."""
    return Outputs(len(targets), lambda rows, logits: core.loss(logits, targets[rows]), _end)


def el2n(config: El2n, targets: NDArray[np.integer]) -> Outputs:
    """Watch for errors early in the training, of several proxies."""

    def at_step(num_steps: int) -> int:
        return min(num_steps, config.at_step or max(1, num_steps // 10))

    return Outputs(len(targets), lambda rows, logits: core.el2n(logits, targets[rows]), at_step)


def disagreement(labels: TeacherLabels, num_images: int) -> Outputs:
    """Watch for the divergence from the teacher at the end of the training."""
    return Outputs(
        num_images,
        lambda rows, logits: core.disagreement(logits, labels.of_images(rows), labels.temperature),
        _end,
    )


def _end(num_steps: int) -> int:
    return num_steps

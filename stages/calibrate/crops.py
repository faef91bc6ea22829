"""The crops of a shard as calibration sees them. Shapes: N crops, I images."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stages.calibrate.served import ServedLabels
from store.overlay import Action
from store.precision import Precision

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Crops:
    """Whole images, sorted by image."""

    image_ids: NDArray[np.integer]
    """(N,) ascending."""
    targets: NDArray[np.integer]
    """(N,) ground-truth classes."""
    max_prob: NDArray[np.float32]
    """(N,) the teacher's maximum at T=1 before compression, on its grid; NaN where rejected."""
    num_classes: int
    precision: Precision = "float16"
    """Grid of the probabilities."""
    target_prob: NDArray[np.float32] | None = None
    """(N,) what the teacher gives the ground truth, likewise; needed by `on: target` and noise."""
    top_class: NDArray[np.integer] | None = None
    """(N,) the teacher's most probable class, -1 where rejected; needed by noise."""
    labels: ServedLabels | None = None
    """As they are served; needed by revise."""
    is_taught: Mask | None = None
    """(N,) whether the crop's image is among those selected for the teacher; needed by select."""
    is_mixed: bool = False
    """Whether crops hold a part of another image: no ground truth is written into such labels."""

    @property
    def rejected(self) -> Mask:
        """(N,) crops without a prediction."""
        return np.isnan(self.max_prob)

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """(I,) the row of each image's first crop."""
        if not len(self.image_ids):
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(np.diff(self.image_ids, prepend=self.image_ids[0] - 1))

    @property
    def per_image(self) -> NDArray[np.int64]:
        """(I,) crops of each image."""
        return np.diff(self.first, append=len(self.image_ids))

    def probability(self, on: str) -> NDArray[np.float32]:
        """Return what thresholds are compared with (N,): `max` or `target`."""
        if on == "max":
            return self.max_prob
        assert self.target_prob is not None, "on: target needs the ground truth's probabilities"
        return self.target_prob

    def images_with(self, where: Mask) -> int:
        """Return how many images have such a crop; `where` is (N,)."""
        return int(np.logical_or.reduceat(where, self.first).sum()) if len(where) else 0

    def images_by_action(self, action: NDArray[np.uint8]) -> dict[str, int]:
        """Return how many images have a crop of each action; `action` is (N,)."""
        if not len(action):
            return {each.name.lower(): 0 for each in Action}
        bits = np.zeros(256, np.uint8)
        for place, each in enumerate(Action):
            bits[each] = 1 << place
        seen = np.bitwise_or.reduceat(bits[action], self.first)
        return {
            each.name.lower(): int((seen & (1 << place) != 0).sum())
            for place, each in enumerate(Action)
        }

"""Data Selection: which images the teacher teaches, by their scores. Shapes: N images.

"Improve Knowledge Distillation via Label Revision and Data Selection" (arXiv 2404.03693).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.calibrate.steps import SelectStep
from stages.shared.contract import Json


@dataclass(frozen=True, slots=True)
class Cutoff:
    """The last image that is selected, in the order of falling scores and rising ids."""

    score: float | None
    """None: no image is selected."""
    image_id: int
    num_taught: int
    num_scored: int

    def is_taught(
        self, scores: NDArray[np.float32], image_ids: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Return whether images (N,) of these scores (N,) are selected; NaN never is."""
        if self.score is None:
            return np.zeros(len(scores), dtype=np.bool_)
        last = np.float32(self.score)
        return np.asarray((scores > last) | ((scores == last) & (image_ids <= self.image_id)))

    def to_json(self) -> dict[str, Json]:
        """Return the cutoff as plain JSON."""
        return {name: getattr(self, name) for name in type(self).__dataclass_fields__}


def choose(step: SelectStep, scores: NDArray[np.float32]) -> Cutoff:
    """Return the cutoff that selects the share asked for, exact to one image.

    ``scores`` are those of all images (N,), in the order of image_id; NaN has none. Of equal
    scores the smaller image_id goes first, so the choice is one and the same whatever the shards.
    """
    scored = np.flatnonzero(~np.isnan(scores))
    num_taught = int(np.floor(step.share * len(scored) + 0.5))
    if not num_taught:
        return Cutoff(None, -1, 0, len(scored))
    order = scored[np.argsort(-scores[scored], kind="stable")]
    last = int(order[num_taught - 1])
    return Cutoff(float(scores[last]), last, num_taught, len(scored))

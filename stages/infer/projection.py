"""What is kept of a self-supervised teacher: the output of its head, whole (FKD, section 3.4).

Shapes: B crops of a forward, D outputs, N images, M crops.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stages.infer.core import Arrays, rejected_rows
from stages.shared.contract import Json
from store.arrays import ArraySpec

HIGHEST = 65504.0
"""Largest finite float16."""


@dataclass(frozen=True, slots=True)
class KeptProjection:
    """The arrays of a predictions part of raw outputs; `logit` is what tells it from others."""

    num_crops: int
    num_outputs: int
    """D."""

    MARK: ClassVar[str] = "logit"
    """Array that is NaN for images that could not be used."""

    def specs(self) -> dict[str, ArraySpec]:
        """Arrays of the part by name; the first axis of each is the images."""
        crops = self.num_crops
        return {
            "image_id": ArraySpec("int32"),
            "crop_key": ArraySpec("uint64", (crops,), ("crop",)),
            "logit": ArraySpec("float16", (crops, self.num_outputs), ("crop", "output")),
        }

    def attributes(self) -> dict[str, Json]:
        """What a reader of the part must know."""
        return {
            "num_crops": self.num_crops,
            "num_outputs": self.num_outputs,
            "arrays": [*sorted(self.specs())],
        }

    def lineage(self) -> dict[str, Json]:
        """What of it is part of the key."""
        return {"outputs": "projection", "num_outputs": self.num_outputs}

    def values(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``logits`` (B, D) rounded to float16; the ground truth has no part in them."""
        return {"logit": logits.half()}

    def rejected(self, num_images: int) -> Arrays:
        """Rows of images that could not be used, to be overwritten by the others."""
        return rejected_rows(self.specs(), num_images)

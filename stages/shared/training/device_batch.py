"""A step's images as they were decoded, for crops to be cut out where the network is.

Shapes: I images, m crops an image, B = I x m, P pixels of all images together.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from stages.shared.device_pixels import CropTable, resize_crops
from stages.shared.model_config import PixelSpec
from stages.shared.recorded import replay
from stages.shared.training.batches import Selection
from stages.shared.training.image_reader import ImageReader, wanted_images
from stages.shared.training.loader_memory import new_bytes
from store.batch import RecordedOps


@dataclass(frozen=True, slots=True)
class UncutCrops:
    """Whole images and the crops to be cut out of them."""

    pixels: torch.Tensor
    """(P, 3) uint8, the rows of the images one after the other: one copy moves them all."""
    table: CropTable
    """The B crops, the m crops of an image side by side."""
    ops: RecordedOps | None
    """What was recorded to be done to the crops; None: nothing."""

    @classmethod
    def read(cls, selection: Selection, reader: ImageReader) -> Self:
        """Decode a selection's images, each once; raises as `ImageReader.read`."""
        heights = selection.heights.astype(np.int64)
        widths = selection.widths.astype(np.int64)
        ends = np.cumsum(heights * widths)
        starts = ends - heights * widths
        pixels = new_bytes((int(ends[-1]), 3))
        rows = pixels.numpy()
        for start, end, wanted in zip(starts, ends, wanted_images(selection), strict=True):
            reader.read_into(wanted, rows[start:end].reshape(wanted.shape))
        boxes, flips = selection.batch.boxes, selection.batch.flips
        of_crops = [np.repeat(each, flips.shape[1]) for each in (starts, heights, widths)]
        sides = boxes.reshape(-1, 4).T.astype(np.int64)
        table = CropTable._make([*of_crops, *sides, flips.reshape(-1).astype(np.int64)])
        return cls(pixels, table, selection.batch.ops)

    def pin_memory(self) -> Self:
        """Return the images in page-locked memory."""
        return replace(self, pixels=self.pixels.pin_memory())

    def cut(self, device: torch.device, specs: tuple[PixelSpec, ...]) -> list[torch.Tensor]:
        """Return the crops as (B, 3, h, w) uint8 on ``device``, once at each size of ``specs``."""
        pixels = self.pixels.to(device, non_blocking=True)
        crops = [resize_crops(pixels, self.table, each.size, each.interpolation) for each in specs]
        if self.ops is None:
            return crops
        return [replay(each, self.ops, out=each) for each in crops]

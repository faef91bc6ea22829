"""A step's images as they were decoded, for crops to be cut out where the network is.

Shapes: I images, m crops an image, B = I x m, J of them mixed, P pixels of all images together.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from stages.shared.device_pixels import CropTable, resize_crops
from stages.shared.mixed import mix_crops, partners_of
from stages.shared.model_config import PixelSpec
from stages.shared.recorded import replay
from stages.shared.training.image_reader import ImageReader, images_to_read
from stages.shared.training.loader_memory import new_bytes
from stages.shared.training.selection import Selection
from store.batch import RecordedMix, RecordedOps


@dataclass(frozen=True, slots=True)
class UncutCrops:
    """Whole images and the crops to be cut out of them."""

    pixels: torch.Tensor
    """(P, 3) uint8, the rows of the images one after the other: one copy moves them all."""
    table: CropTable
    """The B crops, the m crops of an image side by side; then what the J are mixed with."""
    ops: RecordedOps | None
    """What was recorded to be done to the crops; None: nothing."""
    mix: RecordedMix | None = None
    """What they are mixed with: the J crops of ``table`` behind the B; None: nothing."""

    @classmethod
    def read(cls, selection: Selection, reader: ImageReader) -> Self:
        """Decode a selection's images, each once; raises as `ImageReader.read`."""
        to_read, batch = images_to_read(selection), selection.batch
        areas = np.array([each.wanted.height * each.wanted.width for each in to_read], np.int64)
        ends = np.cumsum(areas)
        pixels = new_bytes((int(ends[-1]), 3))
        rows = pixels.numpy()
        for start, end, each in zip(ends - areas, ends, to_read, strict=True):
            reader.read_into(each.wanted, rows[start:end].reshape(each.wanted.shape))
        sizes = [(each.wanted.height, each.wanted.width) for each in to_read]
        images = np.column_stack([ends - areas, np.array(sizes, np.int64)])
        num_images, m = batch.flips.shape
        table = _table(np.repeat(images[:num_images], m, axis=0), batch.boxes, batch.flips)
        if batch.mix is not None:
            mixed = partners_of(batch.mix)
            image_of = np.empty(len(mixed.kinds), np.int64)
            for place, each in enumerate(to_read):
                image_of[each.partners] = place
            others = _table(images[image_of], mixed.boxes, mixed.flips)
            pairs = zip(table, others, strict=True)
            table = CropTable._make([np.concatenate(pair) for pair in pairs])
        return cls(pixels, table, batch.ops, batch.mix)

    def pin_memory(self) -> Self:
        """Return the images in page-locked memory."""
        return replace(self, pixels=self.pixels.pin_memory())

    def cut(self, device: torch.device, specs: tuple[PixelSpec, ...]) -> list[torch.Tensor]:
        """Return the crops as (B, 3, h, w) uint8 on ``device``, once at each size of ``specs``."""
        pixels = self.pixels.to(device, non_blocking=True)
        crops = [resize_crops(pixels, self.table, each.size, each.interpolation) for each in specs]
        if self.mix is not None:
            size = self.mix.kinds.size
            crops = [mix_crops(each[:size], each[size:], self.mix) for each in crops]
        if self.ops is None:
            return crops
        return [replay(each, self.ops, out=each) for each in crops]


def _table(
    images: NDArray[np.int64], boxes: NDArray[np.int32], flips: NDArray[np.bool_]
) -> CropTable:
    """Crops out of images; each has where its image starts, its height and width (crops, 3)."""
    sides = boxes.reshape(-1, 4).T.astype(np.int64)
    return CropTable._make([*images.T, *sides, flips.reshape(-1).astype(np.int64)])

"""Crops of a batch, cut out where the teachers are, of images that were sent there once.

Shapes: B crops of a batch, P of them real, h and w a teacher's input size.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.infer.clock import Clock
from stages.infer.feed import Batch, Crops, PixelKey
from stages.shared.device_pixels import CropTable, resize_crops
from stages.shared.mixed import mix_crops, partners_of
from stages.shared.recorded import replay
from store.batch import RecordedOps


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all shards: PyTorch keeps memory apart by stream. Its work goes first, for a forward
    cannot begin without it."""
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


class DeviceCrops:
    """Makes a batch's pixels on a device, beside the forward of the batch before it."""

    def __init__(
        self,
        crops: Crops,
        keys: Sequence[PixelKey],
        batch_size: int,
        device: torch.device,
        clock: Clock,
    ) -> None:
        """Make ``crops`` as every one of ``keys``."""
        self._crops, self._keys, self._batch_size = crops, tuple(keys), batch_size
        self._device, self._clock = device, clock
        self._there: dict[int, Tensor] = {}
        self._stream = _side_stream(device) if device.type == "cuda" else None

    def make(self, batch: Batch) -> dict[PixelKey, Tensor]:
        """Return (B, 3, h, w) uint8, channels last, by what teachers want.

        On a GPU it has a stream of its own; the current stream waits for it.
        """
        if self._stream is None:
            return self._make(batch)
        with torch.cuda.stream(self._stream):
            found = self._make(batch)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for pixels in found.values():
            pixels.record_stream(current)  # else its memory could be given away while it is read
        return found

    def _make(self, batch: Batch) -> dict[PixelKey, Tensor]:
        with self._clock.on_device("crop"):
            self._send(batch.images)
            usable = ~np.isin(batch.rows[:, 0], list(batch.failed))
            return {key: self._pixels(batch.rows, usable, key) for key in self._keys}

    def _send(self, images: dict[int, Tensor]) -> None:
        """Keep this batch's images, of which some came with the one before, and no others."""
        self._there = {
            image: self._there[image]
            if image in self._there
            else pixels.to(self._device, non_blocking=True)
            for image, pixels in images.items()
        }

    def _pixels(self, rows: NDArray[np.int64], usable: NDArray[np.bool_], key: PixelKey) -> Tensor:
        size, interpolation = key
        if not usable.any():
            return self._black(size)
        wanted = rows[usable]
        at = wanted[:, 0], wanted[:, 1]
        boxes, flips = self._crops.boxes[at], self._crops.flips[at]
        images, mixed = wanted[:, 0], self._crops.mixed
        if mixed is not None:
            mix, partners = mixed.of_crops(wanted)
            others = partners_of(mix)
            images = np.concatenate([images, partners])
            boxes = np.concatenate([boxes, others.boxes])
            flips = np.concatenate([flips, others.flips])
        found = resize_crops(*self._table(images, boxes, flips), size, interpolation)
        if mixed is not None:
            found = mix_crops(found[: len(wanted)], found[len(wanted) :], mix)
        ops: RecordedOps | None = self._crops.ops_of(wanted)
        if ops is not None:
            found = replay(found, ops, out=found)
        if len(found) == self._batch_size:
            return found
        whole = self._black(size)
        places = torch.from_numpy(np.flatnonzero(usable))
        whole[places.to(self._device, non_blocking=True)] = found
        return whole

    def _table(
        self, of: NDArray[np.int64], boxes: NDArray[np.int32], flips: NDArray[np.bool_]
    ) -> tuple[Tensor, CropTable]:
        """The images one after the other, (pixels, 3), and where crops of them lie, ``of`` (n,)."""
        wanted, which = np.unique(of, return_inverse=True)
        images = [self._there[image] for image in wanted.tolist()]
        sides = np.array([image.shape[:2] for image in images], np.int64)
        areas = sides.prod(axis=1)
        starts = np.cumsum(areas) - areas
        flat = [image.reshape(-1, 3) for image in images]
        of_box = boxes.T.astype(np.int64)
        table = CropTable._make([starts[which], *sides[which].T, *of_box, flips.astype(np.int64)])
        return (flat[0] if len(flat) == 1 else torch.cat(flat)), table

    def _black(self, size: tuple[int, int]) -> Tensor:
        shape = (self._batch_size, 3, *size)
        black = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        return black.contiguous(memory_format=torch.channels_last)

"""Crops as batches of one shape, in order, made ahead by threads.

Where the crops are cut out and resized on the CPU, threads do that too; else they only decode, and
the batch carries whole images. Memory is bounded by the batch, whatever the number of crops an
image. Shapes: B crops of a batch, P of them real (the others pad), h and w a teacher's input size.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.infer.clock import Clock
from stages.infer.decoded import DecodedImages
from stages.infer.mixed import Mixed
from stages.shared.images import ImageError
from stages.shared.model_config import Interpolation, PixelSpec
from stages.shared.pixels import crop_resize
from stages.shared.recorded import replay
from store.batch import RecordedOps
from store.images import ImageTable

PixelKey = tuple[tuple[int, int], Interpolation]
"""What of a teacher's pixels is made before they are normalised: size and interpolation."""

_CROPS_A_TASK = 32
"""At most so many of one image, so that few batches are enough to keep many threads busy."""
_MIN_AHEAD = 2
"""Batches that are made while one is forwarded, however many images are in one."""


def pixel_key(spec: PixelSpec) -> PixelKey:
    """Return the size and interpolation that a teacher wants."""
    return spec.size, spec.interpolation


@dataclass(frozen=True, slots=True)
class CropList:
    """Crops of one block, in the order in which they are to be labelled."""

    block: int
    rows: NDArray[np.int64]
    """(P, 2): pairs (image row of the shard, crop)."""


@dataclass(frozen=True, slots=True)
class Crops:
    """How every crop of a shard is made out of its image; N images, M crops each."""

    boxes: NDArray[np.int32]
    """(N, M, 4): top, left, height, width."""
    flips: NDArray[np.bool_]
    """(N, M)."""
    ops: RecordedOps | None = None
    """(N, M, Q) operations that were recorded; None: none."""
    mixed: Mixed | None = None
    """What they are mixed with; None: nothing."""

    def first(self, num_images: int) -> "Crops":
        """Return the crops of the first images alone."""
        n, ops = num_images, self.ops
        kept = None if ops is None else RecordedOps(ops.codes[:n], ops.levels[:n])
        mixed = None if self.mixed is None else self.mixed.first(n)
        return Crops(self.boxes[:n], self.flips[:n], kept, mixed)

    def ops_of(self, rows: NDArray[np.int64]) -> RecordedOps | None:
        """Return the operations (P, Q) of crops ``rows`` (P, 2)."""
        if self.ops is None:
            return None
        at = rows[:, 0], rows[:, 1]
        return RecordedOps(self.ops.codes[at], self.ops.levels[at])


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of one forward."""

    block: int
    rows: NDArray[np.int64]
    """(P, 2): pairs (image row, crop)."""
    failed: dict[int, str]
    """Image rows that could not be used, with the reason; their crops are black."""
    pixels: dict[PixelKey, Tensor] = field(default_factory=dict)
    """(B, 3, h, w) uint8 by what teachers want; rows past P are black. Empty: see ``images``."""
    images: dict[int, Tensor] = field(default_factory=dict)
    """(H, W, 3) uint8 by image row, where crops are cut out on the device."""


class CropFeed:
    """Makes batches of a shard's crops."""

    def __init__(
        self,
        folder: Path,
        images: ImageTable,
        crops: Crops,
        keys: Sequence[PixelKey],
        batch_size: int,
        *,
        num_workers: int,
        whole: bool = False,
        pinned: bool = False,
        clock: Clock,
    ) -> None:
        """Take the crops of ``images`` below ``folder``.

        Each comes as every one of ``keys``; ``whole``: not at all, a device is to cut them out of
        the images. ``pinned``: in page-locked memory, which a GPU copies from beside its work.
        """
        self._crops, self._keys, self._batch_size = crops, tuple(keys), batch_size
        self._num_workers, self._is_whole, self._clock = num_workers, whole, clock
        self._pinned = pinned
        num_kept = num_workers + 2
        if crops.mixed is not None:
            images, num_kept = crops.mixed.images, 2 * num_kept
        self.decoded = DecodedImages(folder, images, num_kept, clock, pinned=whole and pinned)

    def batches(self, lists: Iterable[CropList]) -> Iterator[Batch]:
        """Yield the batches of the lists, each cut into batches of its own, in order.

        Lists are taken as threads get to them, so one does not end before the next begins.

        Raises:
            DataError: an image is not the one that was indexed.
            RetryError: a file could not be read for a reason that may pass.
        """
        pool = ThreadPoolExecutor(self._num_workers, thread_name_prefix="crops")
        pending: deque[_Pending] = deque()
        try:
            for cut in self._cut(lists):
                pending.append(self._begin(pool, cut))
                while self._is_enough(pending):
                    yield pending.popleft().wait()
            while pending:
                yield pending.popleft().wait()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def is_unusable(self, image: int, reason: str) -> bool:
        """Whether an image cannot be used for the very reason; raises as `DecodedImages.get`."""
        found, mixed = self.decoded.why_unusable(image), self._crops.mixed
        if found is not None or mixed is None:
            return found == reason
        partners = np.unique(mixed.rows[image])
        named = [row for row in partners[partners >= 0].tolist() if mixed.names(row, reason)]
        why = {row: self.decoded.why_unusable(row) for row in named}
        return any(mixed.because_of(row, str(each)) == reason for row, each in why.items())

    def _cut(self, lists: Iterable[CropList]) -> Iterator[CropList]:
        for each in lists:
            for start in range(0, len(each.rows), self._batch_size):
                yield CropList(each.block, each.rows[start : start + self._batch_size])

    def _is_enough(self, pending: "deque[_Pending]") -> bool:
        """Whether the batches after the first keep all threads busy."""
        num_ahead = len(pending) - 1
        tasks = sum(len(each.tasks) for each in pending) - len(pending[0].tasks)
        return num_ahead >= _MIN_AHEAD and tasks > self._num_workers

    def _begin(self, pool: ThreadPoolExecutor, cut: CropList) -> "_Pending":
        if self._is_whole:
            mixed = self._crops.mixed
            partners = [] if mixed is None else mixed.of_crops(cut.rows)[1].tolist()
            wanted = dict.fromkeys([*cut.rows[:, 0].tolist(), *partners])
            reads = [(i, pool.submit(self.decoded.get, i)) for i in wanted]
            return _Pending(cut, {}, reads, mixed)
        pixels = {key: _new_pixels(self._batch_size, key[0], self._pinned) for key in self._keys}
        for each in pixels.values():
            each[len(cut.rows) :] = 0
        tasks: list[tuple[int, Future[None]]] = []
        for first, last in pairwise(_borders(cut.rows[:, 0])):
            out = {key: each[first:last] for key, each in pixels.items()}
            task = pool.submit(self._cut_out, cut.rows[first:last], out)
            tasks.append((int(cut.rows[first, 0]), task))
        return _Pending(cut, pixels, tasks)

    def _cut_out(self, rows: NDArray[np.int64], out: dict[PixelKey, Tensor]) -> None:
        """Write the crops ``rows`` of one image to ``out``; black where it cannot be used."""
        try:
            self._cut_out_of(self.decoded.get(int(rows[0, 0])), rows, out)
        except ImageError:
            for pixels in out.values():
                pixels.zero_()
            raise

    def _cut_out_of(
        self, decoded: Tensor, rows: NDArray[np.int64], out: dict[PixelKey, Tensor]
    ) -> None:
        image, crops = int(rows[0, 0]), rows[:, 1]
        boxes, flips = self._crops.boxes[image, crops], self._crops.flips[image, crops]
        ops = self._crops.ops_of(rows)
        with self._clock.time("crop"):
            for (size, interpolation), pixels in out.items():
                crop_resize(decoded, boxes, flips, size, interpolation, out=pixels)
            if self._crops.mixed is not None:
                self._crops.mixed.mix_in(rows, self.decoded.get, out)
            if ops is not None:
                for pixels in out.values():
                    replay(pixels, ops, out=pixels)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A batch whose images or crops threads work on."""

    cut: CropList
    pixels: dict[PixelKey, Tensor]
    tasks: Sequence[tuple[int, Future[Tensor] | Future[None]]]
    """By image row."""
    mixed: Mixed | None = None
    """What crops are mixed with, where tasks decode these images too."""

    def wait(self) -> Batch:
        failed: dict[int, str] = {}
        images: dict[int, Tensor] = {}
        for image, task in self.tasks:
            try:
                found = task.result()
            except ImageError as error:
                failed.setdefault(image, str(error))
                continue
            if found is not None:
                images[image] = found
        if self.mixed is not None:
            failed = self.mixed.failed_of(self.cut.rows, failed)
        return Batch(self.cut.block, self.cut.rows, failed, self.pixels, images)


def _borders(images: NDArray[np.int64]) -> list[int]:
    """Where the tasks of a batch begin, and where the last one ends; ``images`` (P,) rise."""
    changes = np.flatnonzero(np.diff(images)) + 1
    starts = np.concatenate([[0], changes, [len(images)]])
    cuts = [np.arange(first, last, _CROPS_A_TASK) for first, last in pairwise(starts.tolist())]
    return [*np.concatenate(cuts).tolist(), len(images)]


def _new_pixels(count: int, size: tuple[int, int], pinned: bool) -> Tensor:
    """(count, 3, h, w) uint8, channels last, with anything in it.

    Of numpy, which asks for huge pages: touching 38 MB for the first time takes a fifth then.
    """
    shape = (count, *size, 3)
    if pinned:
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True).permute(0, 3, 1, 2)
    return torch.from_numpy(np.empty(shape, np.uint8)).permute(0, 3, 1, 2)

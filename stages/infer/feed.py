"""Crops as batches of one shape: decoded, cropped and resized by threads, in order.

Memory is bounded by the batch, whatever the number of crops an image: a thread makes one batch,
and decodes an image again where its crops go on in the next one.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from stages.shared.images import INDEXED_MAX_PIXELS, ImageError, decode, read_bytes
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import crop_resize
from stages.shared.recorded import replay
from store.batch import RecordedOps
from store.errors import DataError
from store.images import ImageTable


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of one forward."""

    pixels: Tensor
    """(B, 3, h, w) uint8; rows past ``num_crops`` and those of unusable images are black."""
    first: int
    """Place of the first crop in the list that was asked for."""
    num_crops: int
    failed: dict[int, str]
    """Images (rows of the table) that could not be used, with the reason."""


class CropFeed:
    """Makes batches of crops of a shard's images."""

    def __init__(
        self,
        folder: Path,
        images: ImageTable,
        boxes: NDArray[np.int32],
        flips: NDArray[np.bool_],
        spec: PixelSpec,
        num_workers: int,
        ops: RecordedOps | None = None,
    ) -> None:
        """``boxes`` (N, M, 4), ``flips`` (N, M), ``ops`` (N, M, P) of ``images`` in ``folder``."""
        self._folder = folder
        self._images = images
        self._boxes = boxes
        self._flips = flips
        self._spec = spec
        self._num_workers = num_workers
        self._ops = ops
        self._decoded = _Recent(num_workers + 2)

    def batches(self, wanted: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        """Batches of the crops ``wanted`` (P, 2): pairs (image row, crop), in order.

        Raises:
            DataError: an image is not the one that was indexed.
            RetryError: a file could not be read for a reason that may pass.
        """
        starts = iter(range(0, len(wanted), batch_size))
        pool = ThreadPoolExecutor(self._num_workers, thread_name_prefix="crops")
        pending: deque[Future[Batch]] = deque()
        try:
            for start in starts:
                pending.append(pool.submit(self._make, wanted, start, batch_size))
                if len(pending) > self._num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def why_unusable(self, image: int) -> str | None:
        """Why an image (a row of the table) cannot be used now; None where it can.

        Raises:
            DataError: it is not the one that was indexed.
        """
        try:
            self._read(image)
        except ImageError as error:
            return str(error)
        return None

    def _make(self, wanted: NDArray[np.int64], start: int, batch_size: int) -> Batch:
        rows = wanted[start : start + batch_size]
        height, width = self._spec.size
        pixels = torch.zeros((batch_size, 3, height, width), dtype=torch.uint8)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        failed: dict[int, str] = {}
        cuts = np.flatnonzero(np.diff(rows[:, 0])) + 1
        for first, last in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            image, crops = int(rows[first, 0]), rows[first:last, 1]
            try:
                self._crop(image, crops, pixels[first:last])
            except ImageError as error:
                failed[image] = str(error)
        return Batch(pixels, start, len(rows), failed)

    def _crop(self, image: int, crops: NDArray[np.int64], out: Tensor) -> None:
        crop_resize(
            self._image(image),
            self._boxes[image, crops],
            self._flips[image, crops],
            self._spec.size,
            self._spec.interpolation,
            out=out,
        )
        if self._ops is not None:
            ops = RecordedOps(self._ops.codes[image, crops], self._ops.levels[image, crops])
            replay(out, ops, out=out)

    def _image(self, image: int) -> NDArray[np.uint8]:
        found = self._decoded.get(image)
        if found is None:
            found = self._read(image)
            self._decoded.put(image, found)
        return found

    def _read(self, image: int) -> NDArray[np.uint8]:
        path = self._folder / str(self._images.paths[image])
        data = read_bytes(path)
        if xxhash.xxh3_128_hexdigest(data) != self._images.content_hashes[image]:
            raise DataError(
                f"{path} changed since it was indexed; run `ferkd-pipeline stage index` again"
            )
        return decode(data, max_pixels=INDEXED_MAX_PIXELS)


class _Recent:
    """The last few decoded images, shared by the threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._items: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def get(self, key: int) -> NDArray[np.uint8] | None:
        with self._lock:
            return self._items.get(key)

    def put(self, key: int, value: NDArray[np.uint8]) -> None:
        with self._lock:
            self._items[key] = value
            while len(self._items) > self._size:
                self._items.popitem(last=False)

"""A shard's images, each decoded once, whichever threads want its crops.

H and W are an image's height and width in pixels.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from stages.infer.clock import Clock
from stages.shared.images import INDEXED_MAX_PIXELS, ImageError, decode, read_bytes
from store.errors import DataError
from store.images import ImageTable


class DecodedImages:
    """Decodes images and keeps the last few: an image's crops may go on in the next batch."""

    def __init__(
        self, folder: Path, images: ImageTable, num_kept: int, clock: Clock, *, pinned: bool = False
    ) -> None:
        """``pinned``: in page-locked memory, which a GPU copies from without waiting."""
        self._folder, self._images = folder, images
        self._num_kept, self._clock, self._pinned = num_kept, clock, pinned
        self._lock = threading.Lock()
        self._recent: OrderedDict[int, Future[Tensor]] = OrderedDict()

    def get(self, image: int) -> Tensor:
        """Pixels of an image (a row of the table): (H, W, 3) uint8.

        A thread that asks while another decodes it waits for that one.

        Raises:
            ImageError: it cannot be used.
            DataError: it is not the one that was indexed.
            RetryError: it could not be read for a reason that may pass.
        """
        with self._lock:
            found = self._recent.get(image)
            is_first = found is None
            if found is None:
                found = self._recent[image] = Future()
            self._recent.move_to_end(image)
            while len(self._recent) > self._num_kept:
                self._recent.popitem(last=False)
        if is_first:
            try:
                found.set_result(self._read(image))
            except BaseException as error:
                found.set_exception(error)
                raise
        return found.result()

    def why_unusable(self, image: int) -> str | None:
        """Why an image cannot be used now; None where it can. Raises as `get` else."""
        try:
            self._read(image)
        except ImageError as error:
            return str(error)
        return None

    def _read(self, image: int) -> Tensor:
        path = self._folder / str(self._images.paths[image])
        with self._clock.time("read"):
            data = read_bytes(path)
            if xxhash.xxh3_128_hexdigest(data) != self._images.content_hashes[image]:
                raise DataError(
                    f"{path} changed since it was indexed; run `ferkd-pipeline stage index` again"
                )
        with self._clock.time("decode"):
            if not self._pinned:
                return torch.from_numpy(decode(data, max_pixels=INDEXED_MAX_PIXELS))
            shape = (int(self._images.heights[image]), int(self._images.widths[image]), 3)
            memory = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            pixels = decode(data, max_pixels=INDEXED_MAX_PIXELS, into=memory.numpy())
            return memory if pixels.shape == shape else torch.from_numpy(np.array(pixels))

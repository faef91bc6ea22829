"""Images read, cut and batched by threads; those that cannot be read are passed over.

Shapes: B images of a batch, m pictures of an image, (h, w) a teacher's input size.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.shared.images import INDEXED_MAX_PIXELS, ImageError, decode, read_bytes
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import evaluation_crop

Cut = Callable[[int, NDArray[np.uint8]], list[Tensor]]
"""Takes an image's place in the list and its pixels (H, W, 3); gives (m, 3, h, w) uint8 for each
way in which they are wanted."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """A batch of images that could be read."""

    places: NDArray[np.int64]
    """(B,) places in the list that was asked for."""
    pixels: list[Tensor]
    """(B * m, 3, h, w) uint8 for each way in which they are wanted, an image's side by side."""
    failed: dict[int, str]
    """Places of images that could not be read meanwhile, with the reason."""


def centre_crops(specs: Sequence[PixelSpec]) -> Cut:
    """The whole image as evaluation crops it, by each of ``specs``."""

    def cut(_: int, image: NDArray[np.uint8]) -> list[Tensor]:
        return [
            evaluation_crop(
                image, spec.size, spec.crop_ratio, spec.interpolation, spec.crop_mode
            ).unsqueeze(0)
            for spec in specs
        ]

    return cut


def pictures(
    paths: Sequence[Path],
    cut: Cut,
    batch_size: int,
    num_workers: int,
    passed_over: tuple[type[Exception], ...] = (ImageError,),
) -> Iterator[Pictures]:
    """Batches of ``batch_size`` images of ``paths``, in order; memory is bounded by a batch.

    What fails with an error of ``passed_over`` is told and left out.

    Raises:
        RetryError: a file could not be read for a reason that may pass.
    """
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="pictures")
    pending: deque[Future[list[Tensor] | str]] = deque()
    left, batch = enumerate(paths), _Batch()
    try:
        for done in range(len(paths)):
            for place, path in itertools.islice(left, 2 * num_workers - len(pending)):
                pending.append(pool.submit(_read, cut, place, path, passed_over))
            batch.add(done, pending.popleft().result())
            if len(batch.places) == batch_size:
                yield batch.pictures()
                batch = _Batch()
        if batch.places or batch.failed:
            yield batch.pictures()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(
    cut: Cut, place: int, path: Path, passed_over: tuple[type[Exception], ...]
) -> list[Tensor] | str:
    try:
        return cut(place, decode(read_bytes(path), max_pixels=INDEXED_MAX_PIXELS))
    except passed_over as error:
        return str(error)


class _Batch:
    def __init__(self) -> None:
        self.places: list[int] = []
        self._cuts: list[list[Tensor]] = []
        self.failed: dict[int, str] = {}

    def add(self, place: int, found: list[Tensor] | str) -> None:
        if isinstance(found, str):
            self.failed[place] = found
            return
        self.places.append(place)
        self._cuts.append(found)

    def pictures(self) -> Pictures:
        pixels = [torch.cat(each) for each in zip(*self._cuts, strict=True)]
        return Pictures(np.array(self.places, dtype=np.int64), pixels, self.failed)

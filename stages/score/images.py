"""The images to score, at a proxy's evaluation crop; those that cannot be read are passed over.

Shapes: N images, B images of a batch, (h, w) the proxy's input size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from stages.shared.contract import Progress
from stages.shared.images import INDEXED_MAX_PIXELS, ImageError, decode, read_bytes
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import evaluation_crop
from stages.shared.training.evaluation import KEPT_BYTES, EvaluationSet
from stages.shared.training.loader import iterate
from store.errors import DataError, FerkdError
from store.images import ImageTable


@dataclass(frozen=True, slots=True)
class Files:
    """Image files with their classes."""

    paths: Sequence[str]
    """N files."""
    targets: NDArray[np.int64]
    """(N,) ground truth."""
    sizes: NDArray[np.int32] | None = None
    """(N, 2) height and width that a file must have; none: any."""

    @classmethod
    def of_table(cls, table: ImageTable, folder: Path) -> "Files":
        """The training images."""
        sizes = np.stack([table.heights, table.widths], axis=1)
        paths = [str(folder / path) for path in table.paths]
        return cls(paths, table.class_ids.astype(np.int64), sizes)

    @classmethod
    def of_set(cls, images: EvaluationSet) -> "Files":
        """Images to measure influence on."""
        return cls(images.paths, np.array(images.class_ids, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Batch:
    """Evaluation crops of some images; what could not be read is black and not usable."""

    rows: NDArray[np.int64]
    """(B,) places among the files."""
    pixels: torch.Tensor
    """(B, 3, h, w) uint8."""
    reasons: dict[int, str]
    """Why a row is not usable, by row."""


class _Batches(Dataset["Batch | FerkdError"]):
    """Batches by number; an error is returned, not raised: the DataLoader would rewrite it."""

    def __init__(self, files: Files, rows: NDArray[np.int64], spec: PixelSpec, size: int) -> None:
        self._files, self._rows, self._spec, self._size = files, rows, spec, size
        self.num_batches = -(-len(rows) // size)

    def __getitem__(self, number: int) -> Batch | FerkdError:
        """Return a batch, or why there is none."""
        rows = self._rows[number * self._size : (number + 1) * self._size]
        pixels = torch.zeros((len(rows), 3, *self._spec.size), dtype=torch.uint8)
        reasons = {}
        try:
            for place, row in enumerate(rows.tolist()):
                try:
                    pixels[place] = cut(self._files, row, self._spec)
                except ImageError as error:
                    reasons[row] = str(error)
        except FerkdError as error:
            return error
        return Batch(rows, pixels, reasons)


def cut(files: Files, row: int, spec: PixelSpec) -> torch.Tensor:
    """Return the evaluation crop (3, h, w) uint8 of one file.

    Raises:
        ImageError: it is missing, damaged, or not of the size that was indexed.
        RetryError: the file system fails.
    """
    image = decode(read_bytes(Path(files.paths[row])), max_pixels=INDEXED_MAX_PIXELS)
    height, width = image.shape[:2]
    if files.sizes is not None and (height, width) != tuple(files.sizes[row].tolist()):
        raise ImageError(f"is {height}x{width} pixels, which is not what was indexed")
    return evaluation_crop(image, spec.size, spec.crop_ratio, spec.interpolation, spec.crop_mode)


class Crops(Dataset["tuple[torch.Tensor, int]"]):
    """The usable images at one spec: in batches, or one by one as (pixels, target).

    Small sets are kept in memory; others are decoded again whenever they are read.
    """

    def __init__(self, files: Files, spec: PixelSpec, *, batch_size: int, num_workers: int) -> None:
        """Read nothing yet."""
        self.files, self.spec = files, spec
        self.rows = np.arange(len(files.paths))
        """(n,) usable places among the files."""
        self._batch_size, self._num_workers = batch_size, num_workers
        self._kept: torch.Tensor | None = None

    def look(self, progress: Progress, label: str) -> dict[int, str]:
        """Read every image once; return why rows cannot be used. `rows` has the others."""
        num_images = len(self.rows)
        progress.start(label, num_images, "images")
        keeps = 3 * self.spec.size[0] * self.spec.size[1] * num_images <= KEPT_BYTES
        kept: list[torch.Tensor] = []
        reasons: dict[int, str] = {}
        for batch in self._read():
            reasons |= batch.reasons
            if keeps:
                kept.append(batch.pixels)
            progress.advance(len(batch.rows))
        usable = np.array([row not in reasons for row in range(num_images)], dtype=np.bool_)
        if keeps:
            self._kept = torch.cat(kept)[torch.from_numpy(usable)]
        self.rows = self.rows[usable]
        return reasons

    def batches(self) -> Iterator[Batch]:
        """Yield the usable images in order.

        Raises:
            DataError: one that could be read before cannot be read now.
        """
        if self._kept is None:
            for batch in self._read():
                _refuse(self.files, batch.reasons)
                yield batch
            return
        for start in range(0, len(self.rows), self._batch_size):
            stop = start + self._batch_size
            yield Batch(self.rows[start:stop], self._kept[start:stop], {})

    def _read(self) -> Iterator[Batch]:
        batches = _Batches(self.files, self.rows, self.spec, self._batch_size)
        yield from iterate(batches, range(batches.num_batches), self._num_workers)

    def __len__(self) -> int:
        """Number of usable images."""
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        """Return pixels (3, h, w) uint8 and target of a usable image."""
        row = int(self.rows[place])
        target = int(self.files.targets[row])
        if self._kept is not None:
            return self._kept[place], target
        try:
            return cut(self.files, row, self.spec), target
        except ImageError as error:
            _refuse(self.files, {row: str(error)})
            raise


def _refuse(files: Files, reasons: dict[int, str]) -> None:
    for row, reason in reasons.items():
        raise DataError(f"{files.paths[row]}: {reason}; it changed while it was read, run again")

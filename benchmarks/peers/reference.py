"""FKD's published layout: one `torch.save` an image, at CLASS/STEM.tar below the split's folder.

Shapes: M crops, K classes kept, B images of a batch, m crops an image of a batch.

A file holds [boxes (M, 4) float32 array as top / H, left / W, height / H, width / W; flips (M,)
bool array; tensor (M, 2, K) float32 of class ids and probabilities]. Training unpickles a file for
every image that it is given, takes m crops of it and multiplies boxes by the image's sides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.arrays import Labels
from store.batch import FetchedCrops

_SCAN_IMAGES = 100


def write(folder: Path, labels: Labels) -> None:
    """One file an image."""
    sides = _sides(labels)
    files = _files(folder, labels)
    for parent in {file.parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    for row, file in enumerate(files):
        pair = np.stack([labels.class_ids[row], labels.probs[row]], axis=1, dtype=np.float32)
        coords = labels.boxes[row].astype(np.float32) / sides[row]
        torch.save([coords, labels.flips[row], torch.from_numpy(pair)], file)


def open_reader(folder: Path, labels: Labels) -> "_Files":
    """Nothing is opened: every fetch opens its files."""
    return _Files([str(file) for file in _files(folder, labels)], _sides(labels))


def _files(folder: Path, labels: Labels) -> list[Path]:
    paths = (PurePosixPath(path) for path in labels.table.paths)
    return [folder / path.parent / f"{path.name.split('.')[0]}.tar" for path in paths]


def _sides(labels: Labels) -> NDArray[np.float32]:
    """(N, 4) height, width, height, width."""
    pair = np.stack([labels.table.heights, labels.table.widths], axis=1)
    return np.tile(pair, 2).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Files:
    files: list[str]
    sides: NDArray[np.float32]

    def fetch(self, image_ids: NDArray[np.int64], crops: NDArray[np.int64]) -> FetchedCrops:
        """The labels of ``crops`` (B, m) of images ``image_ids`` (B,)."""
        found: list[tuple[Any, Any, Any]] = []
        for image_id, chosen in zip(image_ids.tolist(), crops, strict=True):
            coords, flips, pair = self._load(image_id)
            found.append((coords[chosen], flips[chosen], pair[chosen].numpy()))
        return self._together(image_ids, found)

    def scan(self) -> Iterator[FetchedCrops]:
        """All crops, 100 files at a time."""
        for start in range(0, len(self.files), _SCAN_IMAGES):
            rows = np.arange(start, min(start + _SCAN_IMAGES, len(self.files)))
            found = [self._load(row) for row in rows.tolist()]
            yield self._together(rows, [(a, b, pair.numpy()) for a, b, pair in found])

    def _load(self, image_id: int) -> Any:
        # Its trainer unpickles (torch.load's default then); these files are our own.
        return torch.load(self.files[image_id], weights_only=False)

    def _together(
        self, image_ids: NDArray[np.int64], found: list[tuple[Any, Any, Any]]
    ) -> FetchedCrops:
        coords, flips, pairs = (np.stack(part) for part in zip(*found, strict=True))
        boxes = np.rint(coords * self.sides[image_ids][:, None, :]).astype(np.int32)
        return FetchedCrops(boxes, flips, pairs[:, :, 0].astype(np.int32), pairs[:, :, 1])

"""HDF5: packed records in one contiguous dataset, an image a row."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.arrays import Labels
from benchmarks.peers.records import pack, record_dtype, unpack
from store.batch import FetchedCrops

_SCAN_IMAGES = 100


def write(folder: Path, labels: Labels) -> None:
    """One file."""
    with h5py.File(folder / "labels.h5", "w") as file:
        file.create_dataset("labels", data=pack(labels))


def open_reader(folder: Path, labels: Labels) -> "_File":
    """Open the file for reading."""
    file = h5py.File(folder / "labels.h5", "r")
    return _File(file, file["labels"], record_dtype(labels.k))


@dataclass(frozen=True, slots=True)
class _File:
    file: Any
    labels: Any
    dtype: np.dtype[Any]

    def fetch(self, image_ids: NDArray[np.int64], crops: NDArray[np.int64]) -> FetchedCrops:
        """The labels of ``crops`` (B, m) of images ``image_ids`` (B,)."""
        records = np.empty(crops.shape, self.dtype)
        for place, image_id in enumerate(image_ids.tolist()):
            records[place] = self.labels[image_id][crops[place]]
        return unpack(records)

    def scan(self) -> Iterator[FetchedCrops]:
        """All crops, 100 images at a time."""
        for start in range(0, len(self.labels), _SCAN_IMAGES):
            yield unpack(self.labels[start : start + _SCAN_IMAGES])

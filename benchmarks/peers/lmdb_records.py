"""LMDB: the packed records of an image as one value, its id as key."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from benchmarks.arrays import Labels
from benchmarks.peers.records import pack, record_dtype, unpack
from store.batch import FetchedCrops

_SCAN_IMAGES = 100


def write(folder: Path, labels: Labels) -> None:
    """One environment."""
    records = pack(labels)
    environment = lmdb.open(str(folder), map_size=4 * records.nbytes + 2**24)
    with environment.begin(write=True) as transaction:
        for row, image in enumerate(records):
            transaction.put(_key(row), image.tobytes(), append=True)
    environment.close()


def open_reader(folder: Path, labels: Labels) -> "_Environment":
    """Read-only, without locks, one transaction for all fetches."""
    environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    transaction = environment.begin(buffers=True)
    return _Environment(environment, transaction, record_dtype(labels.k), labels.num_images)


def _key(image_id: int) -> bytes:
    return image_id.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class _Environment:
    environment: Any
    transaction: Any
    dtype: np.dtype[Any]
    num_images: int

    def fetch(self, image_ids: NDArray[np.int64], crops: NDArray[np.int64]) -> FetchedCrops:
        """The labels of ``crops`` (B, m) of images ``image_ids`` (B,)."""
        records = np.empty(crops.shape, self.dtype)
        for place, image_id in enumerate(image_ids.tolist()):
            records[place] = self._image(image_id)[crops[place]]
        return unpack(records)

    def scan(self) -> Iterator[FetchedCrops]:
        """All crops, 100 images at a time."""
        for start in range(0, self.num_images, _SCAN_IMAGES):
            stop = min(start + _SCAN_IMAGES, self.num_images)
            yield unpack(np.stack([self._image(row) for row in range(start, stop)]))

    def _image(self, image_id: int) -> NDArray[Any]:
        return np.frombuffer(self.transaction.get(_key(image_id)), self.dtype)

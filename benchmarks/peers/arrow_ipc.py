"""Arrow IPC, memory-mapped: an image a row, its crops as lists of fixed size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.arrays import Labels
from benchmarks.peers.records import pack
from store.batch import FetchedCrops

_SCAN_IMAGES = 100


def write(folder: Path, labels: Labels) -> None:
    """One file of one record batch."""
    records = pack(labels)
    columns = {}
    for name in ("box", "flip", "class_id", "prob"):
        values = np.ascontiguousarray(records[name]).reshape(labels.num_images, -1)
        plain = values.view(np.uint8) if name == "flip" else values
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(plain.ravel()), plain.shape[1])
    table = pa.table(columns)
    path = str(folder / "labels.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)


def open_reader(folder: Path, labels: Labels) -> "_Mapped":
    """Map the file."""
    source = pa.memory_map(str(folder / "labels.arrow"))
    return _Mapped(pa.ipc.open_file(source).read_all(), labels.num_crops, labels.k)


@dataclass(frozen=True, slots=True)
class _Mapped:
    table: Any
    num_crops: int
    k: int

    def fetch(self, image_ids: NDArray[np.int64], crops: NDArray[np.int64]) -> FetchedCrops:
        """The labels of ``crops`` (B, m) of images ``image_ids`` (B,)."""
        taken = self.table.take(pa.array(image_ids))
        return self._arrays(taken, np.arange(len(image_ids))[:, None], crops)

    def scan(self) -> Iterator[FetchedCrops]:
        """All crops, 100 images at a time."""
        for start in range(0, self.table.num_rows, _SCAN_IMAGES):
            part = self.table.slice(start, _SCAN_IMAGES)
            images = np.arange(part.num_rows)[:, None]
            yield self._arrays(part, images, np.arange(self.num_crops)[None, :])

    def _arrays(self, table: Any, images: NDArray[Any], crops: NDArray[Any]) -> FetchedCrops:
        box, flip, class_id, prob = (
            table.column(name).combine_chunks().flatten().to_numpy()
            for name in ("box", "flip", "class_id", "prob")
        )
        shape = (table.num_rows, self.num_crops)
        return FetchedCrops(
            box.reshape(*shape, 4)[images, crops].astype(np.int32),
            flip.reshape(shape)[images, crops].astype(np.bool_),
            class_id.reshape(*shape, self.k)[images, crops].astype(np.int32),
            prob.reshape(*shape, self.k)[images, crops].astype(np.float32),
        )

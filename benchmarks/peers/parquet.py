"""Plain Parquet, a crop a row: as pandas writes it, and with zstd and small row groups.

An image costs the row groups that it lies in. A fetch reads them once for every image: among
millions of images the images of a batch share none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.arrays import Labels
from store.batch import FetchedCrops

_BOX = ("top", "left", "height", "width")
_IMAGES_A_GROUP = 32


def write_default(folder: Path, labels: Labels) -> None:
    """`DataFrame.to_parquet` as it comes: snappy, row groups of a million rows."""
    _frame(labels).to_parquet(folder / "labels.parquet", index=False)


def write_zstd(folder: Path, labels: Labels) -> None:
    """zstd, a row group for 32 images."""
    _frame(labels).to_parquet(
        folder / "labels.parquet",
        index=False,
        compression="zstd",
        row_group_size=_IMAGES_A_GROUP * labels.num_crops,
    )


def _frame(labels: Labels) -> pd.DataFrame:
    boxes = labels.boxes.reshape(-1, 4).astype(np.uint16)
    ids, probs = labels.class_ids.reshape(-1, labels.k), labels.probs.reshape(-1, labels.k)
    columns: dict[str, NDArray[Any]] = {
        "image_id": np.repeat(np.arange(labels.num_images, dtype=np.int32), labels.num_crops),
        **{name: boxes[:, i] for i, name in enumerate(_BOX)},
        "flip": labels.flips.reshape(-1),
        **{f"class_{k}": ids[:, k].astype(np.uint16) for k in range(labels.k)},
        **{f"prob_{k}": probs[:, k] for k in range(labels.k)},
    }
    return pd.DataFrame(columns)


def open_reader(folder: Path, labels: Labels) -> "_File":
    """Read the footer."""
    file = pq.ParquetFile(folder / "labels.parquet")
    metadata = file.metadata
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return _File(file, np.cumsum(sizes), labels.num_crops, labels.k)


@dataclass(frozen=True, slots=True)
class _File:
    file: Any
    ends: NDArray[np.int64]
    """(G,) one past the last row of each row group."""
    num_crops: int
    k: int

    def fetch(self, image_ids: NDArray[np.int64], crops: NDArray[np.int64]) -> FetchedCrops:
        """The labels of ``crops`` (B, m) of images ``image_ids`` (B,)."""
        found = [self._rows(image, crops[i]) for i, image in enumerate(image_ids.tolist())]
        return FetchedCrops(*(np.stack(part) for part in zip(*found, strict=True)))

    def scan(self) -> Iterator[FetchedCrops]:
        """All crops, a row group at a time, as (rows, 1)."""
        for group in range(len(self.ends)):
            table = self.file.read_row_group(group, use_threads=False)
            parts = self._columns(table, np.arange(table.num_rows))
            yield FetchedCrops(*(part[:, None] for part in parts))

    def _rows(self, image_id: int, crops: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        first = image_id * self.num_crops
        last = first + self.num_crops - 1
        low, high = np.searchsorted(self.ends, [first, last], side="right").tolist()
        table = self.file.read_row_groups(list(range(low, high + 1)), use_threads=False)
        before = int(self.ends[low - 1]) if low else 0
        return self._columns(table, first - before + crops)

    def _columns(self, table: Any, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        def stacked(names: list[str], dtype: str) -> NDArray[Any]:
            parts = [table.column(name).to_numpy()[rows] for name in names]
            return np.stack(parts, axis=1).astype(dtype)

        return (
            stacked(list(_BOX), "i4"),
            table.column("flip").to_numpy()[rows],
            stacked([f"class_{k}" for k in range(self.k)], "i4"),
            stacked([f"prob_{k}" for k in range(self.k)], "f4"),
        )

"""The images of a store: ids, paths, classes and sizes, one row a usable image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import entries, tables
from store.digest import rows_digest
from store.errors import DataError, ParamsError
from store.layout import Layout

STEM = "images"


@dataclass(frozen=True, slots=True)
class ImageTable:
    """Columns of ``images.parquet`` (N rows, sorted by path as UTF-8 bytes) and the class names."""

    paths: NDArray[np.object_]
    """(N,) relative to the folder of images, posix."""
    class_ids: NDArray[np.int32]
    """(N,) ground truth."""
    heights: NDArray[np.int32]
    """(N,) pixels."""
    widths: NDArray[np.int32]
    """(N,) pixels."""
    content_hashes: NDArray[np.object_]
    """(N,) xxh3-128 of the file's bytes, in hex."""
    class_names: tuple[str, ...]
    """Name of class c at place c."""

    def __len__(self) -> int:
        """Number of usable images."""
        return len(self.paths)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def slice(self, start: int, stop: int) -> "ImageTable":
        """Rows ``start`` to ``stop`` (exclusive)."""
        cut = slice(start, stop)
        return ImageTable(
            self.paths[cut],
            self.class_ids[cut],
            self.heights[cut],
            self.widths[cut],
            self.content_hashes[cut],
            self.class_names,
        )

    def digest(self, first_image_id: int, *columns: str) -> str:
        """Rows digest of the named columns and of the ids that these rows have."""
        image_ids = np.arange(first_image_id, first_image_id + len(self), dtype=np.int32)
        named: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in columns}
        return rows_digest({"image_id": image_ids, **named})


def load(layout: Layout) -> ImageTable:
    """Read the images of a store.

    Raises:
        DataError: the stage index has not run, or its files are damaged.
    """
    if entries.find_entry(layout, "images", STEM) is None:
        raise DataError(
            f"{layout.entry('images', STEM)} is missing; run `ferkd-pipeline stage index` first"
        )
    names = ["path", "class_id", "height", "width", "content_hash"]
    images = tables.read_table(layout.table("images", STEM), names)
    classes = tables.read_table(layout.table("images", "classes"), ["name"])
    return ImageTable(
        tables.column(images, "path"),
        tables.column(images, "class_id"),
        tables.column(images, "height"),
        tables.column(images, "width"),
        tables.column(images, "content_hash"),
        tuple(tables.column(classes, "name")),
    )


def shard_bounds(num_images: int, num_shards: int, shard: int) -> tuple[int, int]:
    """First image id and one past the last one of a shard: contiguous, sizes differ by one at most.

    Raises:
        ParamsError: the shard is out of range, or there are more shards than images.
    """
    if not 0 <= shard < num_shards:
        raise ParamsError(
            f"shard {shard} is out of range: store.num_shards is {num_shards}, "
            f"so shards are 0 to {num_shards - 1}"
        )
    if num_shards > num_images:
        raise ParamsError(
            f"store.num_shards is {num_shards}, but there are only {num_images} images; "
            f"allowed: 1 to {num_images}"
        )
    return shard * num_images // num_shards, (shard + 1) * num_images // num_shards

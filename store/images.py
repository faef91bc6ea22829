"""The images of a store: ids, paths, classes and sizes, one row a usable image.

Shapes: N images.
"""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import entries, tables
from store.digest import FramedText, rows_digest
from store.errors import DataError, ParamsError
from store.layout import Layout
from store.schema import CLASSES, IMAGES
from store.text import Text, TextColumn

STEM = "images"


class ImageTable:
    """Columns of ``images.parquet`` (N rows, sorted by path as UTF-8 bytes) and the class names.

    Text stays in Arrow's buffers until somebody asks for strings: digests of 1.28 million paths
    take 0.1 s from buffers and more than a second from strings.
    """

    def __init__(
        self,
        paths: Text,
        class_ids: NDArray[np.int32],
        heights: NDArray[np.int32],
        widths: NDArray[np.int32],
        content_hashes: Text | None,
        class_names: tuple[str, ...],
    ) -> None:
        self._paths = TextColumn.of(paths)
        self._content_hashes = None if content_hashes is None else TextColumn.of(content_hashes)
        self.class_ids = class_ids
        """(N,) ground truth."""
        self.heights = heights
        """(N,) pixels."""
        self.widths = widths
        """(N,) pixels."""
        self.class_names = class_names
        """Name of class c at place c."""

    @cached_property
    def paths(self) -> NDArray[np.object_]:
        """(N,) relative to the folder of images, posix."""
        return self._paths.strings()

    @cached_property
    def content_hashes(self) -> NDArray[np.object_]:
        """(N,) xxh3-128 of the file's bytes, in hex; only where they were read."""
        assert self._content_hashes is not None
        return self._content_hashes.strings()

    @cached_property
    def sizes_digest(self) -> str:
        """Rows digest of all paths and sizes: what crops that are mixed depend on."""
        return self.digest(0, "paths", "heights", "widths")

    def __len__(self) -> int:
        """Number of usable images."""
        return len(self.class_ids)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def slice(self, start: int, stop: int) -> "ImageTable":
        """Rows ``start`` to ``stop`` (exclusive)."""
        cut, hashes = slice(start, stop), self._content_hashes
        return ImageTable(
            self._paths.slice(start, stop),
            self.class_ids[cut],
            self.heights[cut],
            self.widths[cut],
            None if hashes is None else hashes.slice(start, stop),
            self.class_names,
        )

    def take(self, rows: NDArray[np.integer]) -> "ImageTable":
        """These of the rows, in their order."""
        hashes = self._content_hashes
        return ImageTable(
            self._paths.take(rows),
            self.class_ids[rows],
            self.heights[rows],
            self.widths[rows],
            None if hashes is None else hashes.take(rows),
            self.class_names,
        )

    def path_bytes(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Where the path of each of ``rows`` ends in the bytes of all of them, and these bytes."""
        return self._paths.packed(rows)

    def content_hash_words(self, rows: NDArray[np.integer]) -> NDArray[np.uint64]:
        """The hashes of the files of ``rows`` (n,) as numbers (n, 2), high word first.

        Raises:
            DataError: one is not spelled as 32 hex digits.
        """
        assert self._content_hashes is not None
        ends, text = self._content_hashes.packed(rows)
        try:
            data = bytes.fromhex(text.tobytes().decode("ascii"))
        except ValueError:
            data = b""
        if len(data) != 16 * len(rows) or not np.array_equal(
            ends, 32 * np.arange(1, len(rows) + 1)
        ):
            raise DataError(
                "the images have content hashes that are not 32 hex digits; run `ferkd-pipeline "
                "stage index` again"
            )
        return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)

    def digest(self, first_image_id: int, *columns: str) -> str:
        """Rows digest of the named columns and of the ids that these rows have."""
        image_ids = np.arange(first_image_id, first_image_id + len(self), dtype=np.int32)
        named: dict[str, NDArray[Any] | FramedText] = {"image_id": image_ids}
        for name in columns:
            own = getattr(self, f"_{name}", None)
            named[name] = own.framed() if isinstance(own, TextColumn) else getattr(self, name)
        return rows_digest(named)


def load(layout: Layout, *, with_hashes: bool = True) -> ImageTable:
    """Read the images of a store; their content hashes, half of it all, only where asked for.

    Raises:
        DataError: the stage index has not run, or its files are damaged.
    """
    if entries.find_entry(layout, "images", STEM) is None:
        raise DataError(
            f"{layout.entry('images', STEM)} is missing; run `ferkd-pipeline stage index` first"
        )
    names = ["path", "class_id", "height", "width", *(["content_hash"] if with_hashes else [])]
    images = tables.read_table(layout.table("images", STEM), names)
    classes = tables.read_table(layout.table("images", "classes"), ["name"])
    return ImageTable(
        images.column("path"),
        tables.column(images, "class_id"),
        tables.column(images, "height"),
        tables.column(images, "width"),
        images.column("content_hash") if with_hashes else None,
        tuple(tables.column(classes, "name")),
    )


def image_tables(table: ImageTable, num_bytes: NDArray[np.int64]) -> tuple[pa.Table, pa.Table]:
    """The tables ``images`` and ``classes``; ``num_bytes`` (N,) are the sizes of the files."""
    rows: dict[str, Any] = {
        "image_id": np.arange(len(table), dtype=np.int32),
        "path": list(table.paths),
        "class_id": table.class_ids,
        "height": table.heights,
        "width": table.widths,
        "num_bytes": num_bytes,
        "content_hash": list(table.content_hashes),
    }
    ids = np.arange(table.num_classes, dtype=np.int32)
    classes: dict[str, Any] = {"class_id": ids, "name": list(table.class_names)}
    return tables.make_table(IMAGES, rows), tables.make_table(CLASSES, classes)


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

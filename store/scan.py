"""Reading the parts of a whole store: some rows at a time, several parts at once.

A part at ImageNet scale has four million rows. Nothing here holds more of one than a row group and
the rows asked for, so memory does not grow with the store.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from store import tables
from store.errors import DataError

T = TypeVar("T")
R = TypeVar("R")

BLOCK_ROWS = 200_000
"""About how many rows are worked on at once."""
_MOST_THREADS = 4


def block_rows(num_crops: int) -> int:
    """Rows of a block of whole images: a multiple of the crops an image has, at least one image."""
    return max(1, BLOCK_ROWS // num_crops) * num_crops


class RowReader:
    """A Parquet file of the store, read from front to back; page checksums are verified."""

    def __init__(
        self,
        path: Path,
        columns: Sequence[str] | None = None,
        groups: Sequence[int] | None = None,
    ) -> None:
        """Open the file, to read these columns (by default all) of these row groups (all).

        Raises:
            DataError: it is missing, damaged, lacks a column, or is of a newer format version.
        """
        self.path = path
        self._file = tables.open_table(path)
        schema = self._file.schema_arrow
        names = schema.names if columns is None else list(columns)
        if missing := [name for name in names if name not in schema.names]:
            raise DataError(
                f"{path} has no column {', '.join(missing)}; it has {', '.join(schema.names)}"
            )
        self.schema = pa.schema([schema.field(name) for name in names])
        """Of the columns that are read."""
        self.num_rows = int(self._file.metadata.num_rows)
        """Of the whole file."""
        self._groups = list(range(self._file.num_row_groups) if groups is None else groups)
        self._ahead = self.schema.empty_table()

    def take(self, num_rows: int) -> pa.Table:
        """The next rows: as many as asked for, fewer at the end, then none.

        Raises:
            DataError: they are damaged.
        """
        pieces, missing = [self._ahead], num_rows - self._ahead.num_rows
        while missing > 0 and self._groups:
            with tables.damage_is_told(self.path):
                piece = self._file.read_row_group(self._groups.pop(0), columns=self.schema.names)
            pieces.append(piece.select(self.schema.names).replace_schema_metadata(None))
            missing -= piece.num_rows
        found = pa.concat_tables(pieces)
        self._ahead = found.slice(num_rows)
        return found.slice(0, num_rows)

    def blocks(self, num_rows: int) -> Iterator[pa.Table]:
        """All rows, so many at a time."""
        while (block := self.take(num_rows)).num_rows:
            yield block


def in_order(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """``work`` of each item, in several threads; results in the order of the items.

    After an error, what has not begun does not begin.
    """
    threads = max(1, min(_MOST_THREADS, os.cpu_count() or 1, len(items)))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="scan")
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)

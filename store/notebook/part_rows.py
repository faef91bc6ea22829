"""Reading some rows of one part: only the row groups or the chunks that hold them.

Shapes: N images of the part, M crops an image.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store import tables
from store.arrays import ArrayReader
from store.errors import DataError


@dataclass(frozen=True, slots=True)
class Groups:
    """Row groups of a Parquet file, side by side."""

    start: int
    """Their first row in the file."""
    table: pa.Table

    def rows(self, start: int, stop: int) -> pa.Table | None:
        """Rows ``start`` to ``stop`` (exclusive) of the file, where they are among these."""
        if start < self.start or stop > self.start + self.table.num_rows:
            return None
        return self.table.slice(start - self.start, stop - start)


def row_groups(path: Path, start: int, stop: int) -> Groups:
    """The row groups that hold rows ``start`` to ``stop`` (exclusive), page checksums verified.

    The file was compared with its entry before: see `store.notebook.opened`.

    Raises:
        DataError: the file is missing, damaged or too short.
    """
    with (
        tables.damage_is_told(path),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        groups = range(file.metadata.num_row_groups)
        ends = np.cumsum([file.metadata.row_group(number).num_rows for number in groups])
        if not len(ends) or ends[-1] < stop:
            raise DataError(
                f"{path} has fewer rows than its crops; run `ferkd-pipeline store verify`"
            )
        first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
        table = file.read_row_groups(list(range(first, last + 1)))
    before = int(ends[first - 1]) if first else 0
    return Groups(before, table.replace_schema_metadata(None))


def together(parts: Iterable[tuple[Path, pa.Table]], command: str) -> pa.Table:
    """The rows of all parts; ``command`` makes these again.

    Raises:
        DataError: they have other columns than the first, as after a change of `params.yaml`.
    """
    tables_read: list[pa.Table] = []
    first: Path | None = None
    for path, table in parts:
        first = first or path
        if tables_read and not table.schema.equals(tables_read[0].schema):
            raise DataError(
                f"{path} has other columns than {first} ({_difference(tables_read[0], table)}): "
                f"they were made with other parameters; run `{command}`"
            )
        tables_read.append(table)
    return pa.concat_tables(tables_read).unify_dictionaries()


def _difference(one: pa.Table, other: pa.Table) -> str:
    """The first column that only one of two tables has, or that is of another type."""
    types = [{field.name: str(field.type) for field in table.schema} for table in (other, one)]
    for name in dict.fromkeys([*types[0], *types[1]]):
        here, there = (each.get(name, "missing") for each in types)
        if here != there:
            return f"{name} is {here}, not {there}"
    return "in another order"


def array_rows(
    reader: ArrayReader,
    num_crops: int,
    span: tuple[int, int] | None,
    wanted: Collection[str] | None = None,
) -> pa.Table:
    """Rows of the images in ``span`` (None: all) of a Zarr store of labels, one a crop.

    Columns are the ids, then the arrays with a value an image or a crop, or those of ``wanted``;
    arrays with a value of every class stay out.
    """
    start, stop = span or (0, reader.num_images)
    ids = np.repeat(reader.read("image_id", start, stop), num_crops)
    crops = np.tile(np.arange(num_crops, dtype=np.int16), stop - start)
    columns: dict[str, Any] = {"image_id": ids, "crop": crops}
    names = [name for name in reader.names if name not in columns]
    names = [name for name in names if wanted is None or name in wanted]
    for name in sorted(names, key=lambda name: (len(reader.shape(name)), name)):
        shape = reader.shape(name)
        if len(shape) == 1:
            columns[name] = np.repeat(reader.read(name, start, stop), num_crops)
        elif shape[1:] == (num_crops,):
            columns[name] = reader.read(name, start, stop).reshape(-1)
    return pa.table({name: _nullable(values) for name, values in columns.items()})


def _nullable(values: Any) -> pa.Array:
    return pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None)

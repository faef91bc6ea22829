"""Parquet files: written atomically with page checksums, verified on every read of ours.

Encodings, chosen by measurement (docs/benchmarks.md): dictionaries for probabilities, which lie on
a grid, and for columns that repeat; byte stream split for boxes; plain class ids; zstd for all.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from store.atomic import named_in_errors, replace_file
from store.digest import canonical_json
from store.entry import Entry, check_version
from store.errors import DataError, FerkdError
from store.layout import FORMAT_VERSION
from store.recorded import check_file

METADATA_KEY = b"ferkd"
ROW_GROUP_ROWS = 400_000
_ZSTD_LEVEL = 6  # class ids are as small as with 9, and twice as fast; 15 saves 6 % at an eighth
_PAGE_ROWS = 131_072  # byte planes begin where zstd's blocks of 128 KiB do: boxes lose 2.5 %
_CLASS_PAGE_ROWS = 30_000  # below 128 KiB zstd looks harder for short matches: ids lose 1.5 %
_SIDES = ("top", "left", "height", "width")
_BOX_COLUMNS = (*_SIDES, *(f"partner_{name}" for name in _SIDES))


def write_table(
    path: Path, table: pa.Table, metadata: dict[str, Any], *, rows_per_image: int = 1
) -> None:
    """Write ``table`` as ``path``, atomically, with ``metadata`` as JSON under the key ``ferkd``.

    Row groups hold whole images: a multiple of ``rows_per_image`` rows, about 400,000.
    """
    described = {**metadata, "format_version": FORMAT_VERSION}
    table = table.replace_schema_metadata({METADATA_KEY: canonical_json(described)})
    names = table.column_names
    class_ids = {name for name in names if name.startswith("class_")}
    # An image that several crops in a row are mixed with is a match for zstd, not for a dictionary.
    plain = class_ids | {name for name in names if name in (*_BOX_COLUMNS, "partner_id")}
    with replace_file(path) as partial:
        pq.write_table(
            table,
            partial,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            row_group_size=max(1, ROW_GROUP_ROWS // rows_per_image) * rows_per_image,
            use_dictionary=[name for name in names if name not in plain],
            column_encoding={name: "BYTE_STREAM_SPLIT" for name in names if name in _BOX_COLUMNS},
            max_rows_per_page=_CLASS_PAGE_ROWS if class_ids else _PAGE_ROWS,
            write_page_checksum=True,
            write_statistics=True,
        )


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file of the store, compared with its entry, its page checksums verified.

    Raises:
        DataError: the file is missing, damaged, not as recorded, or of a newer format version.
    """
    entry = check_file(path)
    # Opened once: by its name, pyarrow opens it more than once, and a writer may replace it between
    # footer and pages. Rows of the two together are neither's.
    with damage_is_told(path), pa.OSFile(str(path)) as file:
        _check_rows(path, pq.read_metadata(file).num_rows, entry)
        table = pq.read_table(
            file,
            columns=None if columns is None else list(columns),
            page_checksum_verification=True,
            partitioning=None,
        )
    check_described(path, table)
    return table


def open_table(path: Path) -> pq.ParquetFile:
    """Open a Parquet file of the store to read parts of it; close it, or use ``with``.

    Rows are to be read under `damage_is_told`: page checksums are verified only then.

    Raises:
        DataError: the file is missing, damaged, not as recorded, or of a newer format version.
    """
    entry = check_file(path)
    with damage_is_told(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        _check_rows(path, file.metadata.num_rows, entry)
        check_described(path, file.schema_arrow.empty_table())
    return file


def _check_rows(path: Path, num_rows: int, entry: Entry | None) -> None:
    """Refuse other rows than a part's entry tells, before memory is taken for them."""
    if entry is not None and entry.stem == path.stem and entry.rows != num_rows:
        raise DataError(
            f"{path} has {num_rows:,} rows, but its entry tells of {entry.rows:,}; delete it and "
            f"run `{entry.remake}` again"
        )


@contextmanager
def damage_is_told(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises over a missing or damaged file into a DataError."""
    try:
        with named_in_errors(path):
            yield
    except MemoryError:  # pyarrow's own is one, and an ArrowException too
        raise
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run the stage that writes it") from None
    except UnicodeEncodeError:  # a name that Arrow does not take says nothing of what is in it
        raise FerkdError(f"{str(path)!r} is a name that is not UTF-8; rename the folder") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # permission, a failing disk: says nothing about what the file holds
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} is damaged ({reason}); delete it and run its stage again"
        ) from error


def read_metadata(table: pa.Table) -> dict[str, Any]:
    """The ``ferkd`` metadata of a table that `read_table` returned; empty where there is none."""
    raw = (table.schema.metadata or {}).get(METADATA_KEY)
    return dict(json.loads(raw)) if raw else {}


def check_described(path: Path, table: pa.Table) -> None:
    """Refuse a table that says nothing of itself, or that a newer version wrote.

    Raises:
        DataError: it is not of a label store, damaged, or of a newer format version.
    """
    try:
        version = read_metadata(table).get("format_version")
    except (ValueError, TypeError, RecursionError):
        raise DataError(
            f"{path} is damaged (its `ferkd` metadata); delete it and run its stage again"
        ) from None
    if version is None:
        raise DataError(f"{path} is not a file of a label store: it has no `ferkd` metadata")
    check_version(version, path)


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """One column as a numpy array: nulls of float columns as NaN, text as objects."""
    values: NDArray[Any] = table.column(name).to_numpy()
    return values


def columns(table: pa.Table) -> dict[str, NDArray[Any]]:
    """All columns as numpy arrays, for a rows digest."""
    return {name: column(table, name) for name in table.column_names}


def make_table(schema: pa.Schema, values: Mapping[str, NDArray[Any] | Sequence[Any]]) -> pa.Table:
    """A table of ``schema`` from numpy columns; NaN in a float column becomes null."""
    arrays = [_to_arrow(values[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _to_arrow(values: NDArray[Any] | Sequence[Any], kind: pa.DataType) -> pa.Array:
    array = np.asarray(values)
    if pa.types.is_floating(kind):
        return pa.array(array, type=kind, mask=np.isnan(array))
    return pa.array(values, type=kind)

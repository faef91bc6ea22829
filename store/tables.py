"""Parquet files: written atomically with page checksums, verified on every read of ours.

Encodings: zstd level 9; dictionaries for probabilities, which lie on a grid, and for columns that
repeat; byte stream split for boxes; plain class ids.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from store.atomic import replace_file
from store.digest import canonical_json
from store.entry import check_version
from store.errors import DataError
from store.layout import FORMAT_VERSION

METADATA_KEY = b"ferkd"
ROW_GROUP_ROWS = 400_000
_BOX_COLUMNS = ("top", "left", "height", "width")


def write_table(
    path: Path, table: pa.Table, metadata: dict[str, Any], *, rows_per_image: int = 1
) -> None:
    """Write ``table`` as ``path``, atomically, with ``metadata`` as JSON under the key ``ferkd``.

    Row groups hold whole images: a multiple of ``rows_per_image`` rows, about 400,000.
    """
    described = {**metadata, "format_version": FORMAT_VERSION}
    table = table.replace_schema_metadata({METADATA_KEY: canonical_json(described)})
    names = table.column_names
    plain = {name for name in names if name in _BOX_COLUMNS or name.startswith("class_")}
    with replace_file(path) as partial:
        pq.write_table(
            table,
            partial,
            compression="zstd",
            compression_level=9,
            row_group_size=max(1, ROW_GROUP_ROWS // rows_per_image) * rows_per_image,
            use_dictionary=[name for name in names if name not in plain],
            column_encoding={name: "BYTE_STREAM_SPLIT" for name in names if name in _BOX_COLUMNS},
            write_page_checksum=True,
            write_statistics=True,
        )


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file of the store, its page checksums verified.

    Raises:
        DataError: the file is missing, damaged, or of a newer format version.
    """
    try:
        table = pq.read_table(
            path,
            columns=None if columns is None else list(columns),
            page_checksum_verification=True,
            partitioning=None,
        )
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run the stage that writes it") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # permission, a failing disk: says nothing about what the file holds
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} is damaged ({reason}); delete it and run its stage again"
        ) from error
    _check_version(path, table)
    return table


def read_metadata(table: pa.Table) -> dict[str, Any]:
    """The ``ferkd`` metadata of a table that `read_table` returned; empty where there is none."""
    raw = (table.schema.metadata or {}).get(METADATA_KEY)
    return dict(json.loads(raw)) if raw else {}


def _check_version(path: Path, table: pa.Table) -> None:
    try:
        version = read_metadata(table).get("format_version")
    except (ValueError, TypeError):
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

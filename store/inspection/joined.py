"""Rows of a shard's crops with path, class, box, label and calibration side by side.

Shapes: N rows (crops).

The tables of a shard have the same rows in the same order, so joining them is no search: it is
checked that their ids agree.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from store import images, scan, tables
from store.entries import Entry
from store.errors import DataError, ParamsError
from store.images import ImageTable
from store.inspection import shards
from store.inspection.label_rows import dense_scalars
from store.layout import Layout, calibrated
from store.overlay import Action
from store.schema import CALIBRATED, CROPS
from store.soft_part import SoftPart

KEY = ("image_id", "crop")
_NAME_OF_ACTION = {int(action): action.name.lower() for action in Action}
_ACTION_NAMES = pa.array([_NAME_OF_ACTION.get(value) for value in range(256)], pa.string())
"""By an action's number; null where there is no such action."""


class _Rows(Protocol):
    """What is read of one artifact of a shard, front to back."""

    @property
    def schema(self) -> pa.Schema:
        """Of the rows."""

    def take(self, num_rows: int) -> pa.Table:
        """The next rows."""


class _DenseRows:
    """Ids and the two probabilities of labels kept in Zarr, as a table."""

    def __init__(self, part: SoftPart, columns: Sequence[str]) -> None:
        scalars, num_crops = dense_scalars(part), part.num_crops
        num_rows = len(scalars.targets)
        crops = np.tile(np.arange(num_crops, dtype=np.int16), num_rows // num_crops)
        schema = pa.schema([(name, kind) for name, kind in _DENSE.items() if name in columns])
        values: dict[str, Any] = {
            "image_id": scalars.image_ids,
            "crop": crops,
            "target": scalars.targets,
            "target_prob": scalars.target_prob,
            "max_prob": scalars.max_prob,
        }
        self._table = tables.make_table(schema, values).select(list(columns))
        self.schema = self._table.schema
        self._next = 0

    def take(self, num_rows: int) -> pa.Table:
        found = self._table.slice(self._next, num_rows)
        self._next += num_rows
        return found


_DENSE = {
    "image_id": pa.int32(),
    "crop": pa.int16(),
    "target": pa.int32(),
    "target_prob": pa.float32(),
    "max_prob": pa.float32(),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the joined rows."""

    artifact: str
    """Where it is kept; ``images`` where it is looked up there."""
    kind: pa.DataType


@dataclass(frozen=True, slots=True)
class Joined:
    """The joined rows of a store, with one calibration or none."""

    layout: Layout
    table: ImageTable
    soft: Mapping[int, Entry]
    """Of all shards, by shard."""
    calibration: str | None
    columns: Mapping[str, Column]
    """By name, in the order that people read them."""

    def empty(self, names: Sequence[str]) -> pa.Table:
        """No rows, with the columns' types: a file without rows says what it would hold."""
        return pa.schema([(name, self.columns[name].kind) for name in names]).empty_table()

    def rows(self, shard: int, names: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns of a shard, a block of whole images at a time.

        Raises:
            DataError: a table is missing, damaged, or of other crops.
        """
        part = SoftPart(self.layout, self.soft[shard])
        artifacts = dict.fromkeys(["soft", *(self.columns[name].artifact for name in names)])
        readers = {
            artifact: self._open(artifact, part, names)
            for artifact in artifacts
            if artifact != "images"
        }
        bounds = images.shard_bounds(len(self.table), len(self.soft), shard)
        num_rows = scan.block_rows(part.num_crops)
        while (first := readers["soft"].take(num_rows)).num_rows:
            self._check_ids(first, part.entry, bounds)
            blocks = {"soft": first}
            for artifact, reader in readers.items():
                if artifact != "soft":
                    blocks[artifact] = self._beside(first, artifact, part.entry, reader)
            yield pa.table([self._column(blocks, name) for name in names], names=list(names))

    def _open(self, artifact: str, part: SoftPart, names: Sequence[str]) -> _Rows:
        looked_up_by = {"action_name": "action", "class_name": "target"}
        own = [looked_up_by.get(n, n) for n in names if self.columns[n].artifact == artifact]
        if artifact == "soft" and "class_name" in names:
            own.append("target")
        columns = list(dict.fromkeys([*KEY, *own]))
        if artifact == "soft" and part.spec.is_dense:
            return _DenseRows(part, columns)
        return scan.RowReader(self.layout.table(artifact, part.entry.stem), columns)

    def _check_ids(self, rows: pa.Table, entry: Entry, bounds: tuple[int, int]) -> None:
        ids = tables.column(rows, "image_id")
        if not bounds[0] <= ids.min() <= ids.max() < bounds[1]:
            raise DataError(
                f"{self.layout.folder('soft') / entry.stem} has other images than "
                f"{bounds[0]} to {bounds[1] - 1}, those of its shard; run `ferkd-pipeline store "
                "verify`"
            )

    def _beside(self, first: pa.Table, artifact: str, entry: Entry, reader: _Rows) -> pa.Table:
        block = reader.take(first.num_rows)
        if not block.select(list(KEY)).equals(first.select(list(KEY))):
            raise DataError(
                f"{self.layout.table(artifact, entry.stem)} has other rows than "
                f"{self.layout.folder('soft') / entry.stem}; run `ferkd-pipeline store verify`"
            )
        return block

    def _column(self, blocks: Mapping[str, pa.Table], name: str) -> pa.Array | pa.ChunkedArray:
        if name == "path":
            return paths_of(self.table, tables.column(blocks["soft"], "image_id"))
        if name == "class_name":
            return class_names_of(self.table, blocks["soft"].column("target"))
        block = blocks[self.columns[name].artifact]
        if name == "action_name":
            return _ACTION_NAMES.take(block.column("action"))
        return block.column(name)


def paths_of(table: ImageTable, image_ids: NDArray[np.int32]) -> pa.Array:
    """(N,) paths of images of the table, without a Python string for each."""
    first, last = int(image_ids.min()), int(image_ids.max())
    # Only those between: a block's images are neighbours.
    ends, data = table.slice(first, last + 1).path_bytes(image_ids - first)
    offsets = np.concatenate([np.zeros(1, np.int64), ends])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_string(), len(image_ids), buffers).cast(pa.string())


def class_names_of(table: ImageTable, class_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """(N,) names of classes.

    Raises:
        DataError: there is no such class.
    """
    try:
        return pa.array(table.class_names, pa.string()).take(class_ids)
    except pa.ArrowIndexError:
        raise DataError(
            f"a class lies outside of the {table.num_classes} of the images; run `ferkd-pipeline "
            "store verify`"
        ) from None


def open_joined(layout: Layout, table: ImageTable, calibration: str | None) -> Joined:
    """The joined rows of a store.

    Raises:
        DataError: there are no labels, not of all shards, or of other images or crops; or the
            calibration is not of all shards, or of other labels.
    """
    soft = shards.labelled(layout, table)
    if calibration is not None:
        for shard, entry in soft.items():
            shards.labelled_by(layout, shard, calibrated(calibration), entry)
    columns = _columns(layout, SoftPart(layout, soft[0]), calibration)
    return Joined(layout, table, soft, calibration, columns)


def _columns(layout: Layout, first: SoftPart, calibration: str | None) -> dict[str, Column]:
    """Columns of the first shard, from what its files say of themselves."""
    stem, found = first.entry.stem, {"image_id": "soft", "crop": "soft", "path": "images"}
    found |= {"target": "soft", "class_name": "images"}
    is_table = not first.spec.is_dense
    soft = _schema(layout.table("soft", stem)) if is_table else pa.schema(list(_DENSE.items()))
    crops = _schema(layout.table("crops", stem))
    # First those of every store, then those that a stage recorded besides.
    found |= dict.fromkeys([*CROPS.names[len(KEY) :], *crops.names[len(KEY) :]], "crops")
    found |= {name: "soft" for name in soft.names if name not in found}
    kinds = {field.name: field.type for field in (*CALIBRATED, *crops, *soft)}
    kinds |= dict.fromkeys(["path", "class_name", "action_name"], pa.string())
    if calibration is not None:
        names = CALIBRATED.names[len(KEY) :]
        found |= dict.fromkeys([names[0], "action_name", *names[1:]], calibrated(calibration))
    return {name: Column(artifact, kinds[name]) for name, artifact in found.items()}


def _schema(path: Path) -> pa.Schema:
    """Columns of a file, from its end alone: its bytes are checked when its rows are read."""
    with tables.damage_is_told(path):
        schema: pa.Schema = pq.read_schema(path)
    tables.check_described(path, schema.empty_table())
    return schema


def check_columns(wanted: Sequence[str], known: Sequence[str], what: str) -> None:
    """Refuse columns that do not exist.

    Raises:
        ParamsError: says which there are.
    """
    for name in wanted:
        if name not in known:
            raise ParamsError(
                f"columns {name}: {what} has no such column; it has {', '.join(known)}"
            )

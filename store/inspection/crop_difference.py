"""What differs between the crops of one shard in two stores. N rows, P recorded operations."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import mixing, scan, tables
from store.batch import RecordedOps
from store.entries import Entry
from store.layout import Layout
from store.operations import column_names, count_of, from_columns

_BOX = ["top", "left", "height", "width"]


@dataclass(slots=True)
class CropsDifference:
    """Crops of parts that both stores have."""

    num_crops: int = 0
    other_box: int = 0
    other_flip: int = 0
    other_ops: int = 0
    """With other recorded operations."""
    other_mix: int = 0
    """Mixed otherwise, or with other images."""


def compare_crops(a: Layout, b: Layout, one: Entry, other: Entry) -> CropsDifference:
    """Compare a part of A with one of B that has as many rows."""
    found = CropsDifference(one.rows)
    if one.rows_digest == other.rows_digest:
        return found
    counts = count_of(one), count_of(other)
    are_mixed = mixing.has_mix(one), mixing.has_mix(other)
    readers = [
        scan.RowReader(
            layout.table("crops", one.stem),
            [*_BOX, "flip", *column_names(num_ops), *(mixing.column_names() if is_mixed else [])],
        ).blocks(scan.BLOCK_ROWS)
        for layout, num_ops, is_mixed in zip((a, b), counts, are_mixed, strict=True)
    ]
    for left, right in zip(*readers, strict=True):
        differs = [_column_differs(left, right, name) for name in (*_BOX, "flip")]
        found.other_box += int(np.logical_or.reduce(differs[:4]).sum())
        found.other_flip += int(differs[4].sum())
        if any(counts):
            ours, theirs = (
                _ops(table, num_ops, max(counts))
                for table, num_ops in zip((left, right), counts, strict=True)
            )
            is_same = (ours.codes == theirs.codes) & (ours.levels == theirs.levels)
            found.other_ops += int((~is_same.all(axis=1)).sum())
        if any(are_mixed):
            found.other_mix += _other_mix(left, right, are_mixed)
    return found


def merge(parts: Iterable[CropsDifference]) -> CropsDifference:
    """Of all parts together."""
    return CropsDifference(*np.sum([astuple(each) for each in parts], axis=0).tolist())


def _column_differs(left: pa.Table, right: pa.Table, name: str) -> NDArray[np.bool_]:
    return np.asarray(tables.column(left, name) != tables.column(right, name))


def _other_mix(left: pa.Table, right: pa.Table, are_mixed: tuple[bool, bool]) -> int:
    """How many rows are mixed otherwise; without columns of it, none is mixed."""
    if not all(are_mixed):
        kinds = tables.column(left if are_mixed[0] else right, "mix")
        return int(np.count_nonzero(kinds != mixing.MixKind.NONE))
    differs = [_column_differs(left, right, name) for name in mixing.column_names()]
    return int(np.logical_or.reduce(differs).sum())


def _ops(table: pa.Table, num_ops: int, wanted: int) -> RecordedOps:
    """The operations (N, wanted) of rows; what a store lacks is no operation."""
    shape = (table.num_rows, wanted)
    found = RecordedOps(np.zeros(shape, np.uint8), np.zeros(shape, np.float32))
    if num_ops:
        names = column_names(num_ops)
        own = from_columns({name: tables.column(table, name) for name in names}, num_ops)
        found.codes[:, :num_ops], found.levels[:, :num_ops] = own.codes, own.levels
    return found

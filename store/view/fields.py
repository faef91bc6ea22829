"""Reading fields of a training view's records.

Shapes: R records, (B, m) the crops that they stand for, P recorded operations a crop.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.batch import RecordedMix, RecordedOps


def boxes_of(
    records: NDArray[Any], shape: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Boxes (B, m, 4) and flips (B, m)."""
    boxes = columns_of(records["box"], np.int32).reshape(*shape, 4)
    return boxes, np.ascontiguousarray(records["flip"]).reshape(shape)


def ops_of(records: NDArray[Any], shape: tuple[int, ...]) -> RecordedOps | None:
    """Operations (B, m, P); None where records have none."""
    if "op" not in _names(records):
        return None
    num_ops = records["op"].shape[-1]
    codes, levels = (records[name].reshape(*shape, num_ops) for name in ("op", "level"))
    return RecordedOps(np.ascontiguousarray(codes), np.ascontiguousarray(levels))


def mix_of(records: NDArray[Any], shape: tuple[int, ...]) -> RecordedMix | None:
    """What crops (B, m) are mixed with; None where records say nothing of it."""
    if "mix" not in _names(records):
        return None
    names = ("mix", "share", "partner_id", "partner_flip", "cut")
    kinds, shares, partner_ids, flips, cuts = (np.ascontiguousarray(records[n]) for n in names)
    boxes = columns_of(records["partner_box"], np.int32)
    return RecordedMix(kinds, shares, partner_ids, boxes, flips, cuts).reshape(*shape)


def columns_of(values: NDArray[Any], dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    """(R, few) in another type, column by column: numpy's loops want to be long."""
    copy = np.empty(values.shape, dtype)
    for place in range(values.shape[1]):
        copy[:, place] = values[:, place]
    return copy


def _names(records: NDArray[Any]) -> tuple[str, ...]:
    return records.dtype.names or ()

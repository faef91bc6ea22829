"""Recorded augmentation: the operations that were done to a crop's pixels, as codes and levels.

Shapes: P places of a crop, in the order that the operations act in.

A crops part may have the columns ``op_0``, ``level_0`` .. ``op_{P-1}``, ``level_{P-1}``. Codes are
a contract: once written they keep their meaning, and new operations get new codes. How pixels
change is `stages.shared.recorded`'s to say; levels do not depend on the size of a crop.
"""

import math
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import tables
from store.batch import RecordedOps
from store.entry import Entry
from store.errors import DataError


class Operation(IntEnum):
    """What a code stands for; the unit of its level."""

    NONE = 0
    """Nothing; level 0."""
    BRIGHTNESS = 1
    """Factor, at least 0: 0 is black, 1 changes nothing."""
    CONTRAST = 2
    """Factor, at least 0: 0 is the mean grey of the crop, 1 changes nothing."""
    SATURATION = 3
    """Factor, at least 0: 0 is grey, 1 changes nothing."""
    HUE = 4
    """Turns of the colour circle, -0.5 to 0.5."""
    SHARPNESS = 5
    """Factor, at least 0: 0 is blurred, 1 changes nothing."""
    POSTERIZE = 6
    """Bits kept of each channel, 0 to 8."""
    SOLARIZE = 7
    """Value, 0 to 255, from which on values are inverted."""
    AUTOCONTRAST = 8
    """No unit; level 0."""
    EQUALIZE = 9
    """No unit; level 0."""
    INVERT = 10
    """No unit; level 0."""
    ROTATE = 11
    """Degrees, counter-clockwise, about the centre."""
    SHEAR_X = 12
    """Pixels to the left for each pixel further down."""
    SHEAR_Y = 13
    """Pixels up for each pixel further right."""
    TRANSLATE_X = 14
    """Share of the width, to the right."""
    TRANSLATE_Y = 15
    """Share of the height, down."""


_RANGES = {
    Operation.BRIGHTNESS: (0.0, math.inf),
    Operation.CONTRAST: (0.0, math.inf),
    Operation.SATURATION: (0.0, math.inf),
    Operation.HUE: (-0.5, 0.5),
    Operation.SHARPNESS: (0.0, math.inf),
    Operation.POSTERIZE: (0.0, 8.0),
    Operation.SOLARIZE: (0.0, 255.0),
    Operation.ROTATE: (-360.0, 360.0),
    Operation.SHEAR_X: (-math.inf, math.inf),
    Operation.SHEAR_Y: (-math.inf, math.inf),
    Operation.TRANSLATE_X: (-math.inf, math.inf),
    Operation.TRANSLATE_Y: (-math.inf, math.inf),
}
"""Smallest and largest level; those that have no unit have level 0 alone."""

_LOWEST = np.array([_RANGES.get(op, (0.0, 0.0))[0] for op in Operation])
_HIGHEST = np.array([_RANGES.get(op, (0.0, 0.0))[1] for op in Operation])


def count_of(crops: Entry) -> int:
    """P, places of the crops of a part; 0 where nothing is recorded."""
    return int(crops.attributes.get("num_ops", 0))


def column_names(num_ops: int) -> list[str]:
    """Columns of ``num_ops`` operations, in their order."""
    return [f"{kind}_{place}" for place in range(num_ops) for kind in ("op", "level")]


def columns_of(ops: RecordedOps) -> dict[str, NDArray[Any]]:
    """The columns of a crops part, of operations (.., P) whose rows are its rows in order."""
    num_ops = ops.codes.shape[-1]
    codes, levels = ops.codes.reshape(-1, num_ops), ops.levels.reshape(-1, num_ops)
    pairs = [(codes[:, place], levels[:, place]) for place in range(num_ops)]
    values = [column for pair in pairs for column in pair]
    return dict(zip(column_names(num_ops), values, strict=True))


def from_columns(columns: Mapping[str, NDArray[Any]], num_ops: int) -> RecordedOps:
    """The operations (N, P) that columns (N,) hold."""
    codes = [columns[f"op_{place}"] for place in range(num_ops)]
    levels = [columns[f"level_{place}"] for place in range(num_ops)]
    return RecordedOps(np.stack(codes, axis=1), np.stack(levels, axis=1))


def from_table(path: Path, table: pa.Table, num_ops: int) -> RecordedOps:
    """The operations (N, P) of the rows of a crops part.

    Raises:
        DataError: it names ``path``, which has none, or one that cannot be replayed.
    """
    if missing := [name for name in column_names(num_ops) if name not in table.column_names]:
        raise DataError(
            f"{path} lacks the column {missing[0]}; run `ferkd-pipeline stage sample` again"
        )
    names = column_names(num_ops)
    ops = from_columns({name: tables.column(table, name) for name in names}, num_ops)
    if wrong := what_is_wrong(ops):
        raise DataError(
            f"{path} has {wrong}, which this version cannot replay; run `ferkd-pipeline store "
            "verify`, or upgrade ferkd-pipeline"
        )
    return ops


def what_is_wrong(ops: RecordedOps) -> str | None:
    """The first operation that docs/format.md does not list, or whose level it does not allow."""
    codes, levels = ops.codes.reshape(-1), ops.levels.reshape(-1)
    unknown = (codes < 0) | (codes >= len(Operation))
    if unknown.any():
        return f"the operation {codes[unknown][0]}"
    with np.errstate(invalid="ignore"):
        fits = np.isfinite(levels) & (levels >= _LOWEST[codes]) & (levels <= _HIGHEST[codes])
    fits &= (codes != Operation.POSTERIZE) | (levels == np.rint(levels))
    if fits.all():
        return None
    first = int(np.argmin(fits))
    return f"the operation {Operation(codes[first]).name.lower()} with level {levels[first]:g}"

"""One crop of the training view: a record of fixed stride, as narrow as what it holds allows.

Shapes: N images, M crops, K stored classes, P recorded operations.

Fields lie widest first, little endian, every one aligned to its own size. With boxes, class ids
and probability codes of two bytes a record of K = 5 takes 30 bytes, one of them the calibration's.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from store.codecs import LabelSpec

BoxType = Literal["uint16", "int16", "int32"]
ProbType = Literal["uint16", "float32"]
WeightType = Literal["none", "uint8", "float32"]

NUM_PROB_CODES = 65536
NUM_WEIGHT_CODES = 255
_LARGEST_SHORT_ID = 65535


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Types of the fields whose width depends on the values of the whole store."""

    box: BoxType = "uint16"
    prob: ProbType = "uint16"
    """uint16: a place in ``prob_values.npy``; float32: the probability itself."""
    weights: WeightType = "none"
    """none: nothing is calibrated; uint8: a place in ``weight_values.npy``; float32: a and b."""
    num_ops: int = 0
    """P, operations recorded of a crop."""
    has_mix: bool = False
    """Whether it says what a crop is mixed with."""

    def __post_init__(self) -> None:
        """Raise ValueError for a type or number that there is not."""
        for name, allowed in (("box", BoxType), ("prob", ProbType), ("weights", WeightType)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} is {getattr(self, name)!r}")
        if self.num_ops < 0:
            raise ValueError(f"num_ops is {self.num_ops}")


class TooNarrowError(Exception):
    """Values do not fit a layout; ``wider`` is the next one to try."""

    def __init__(self, wider: RecordLayout) -> None:
        super().__init__(str(wider))
        self.wider = wider


def narrowest(has_calibration: bool, num_ops: int, has_mix: bool = False) -> RecordLayout:
    """The layout to try first."""
    weights: WeightType = "uint8" if has_calibration else "none"
    return RecordLayout(weights=weights, num_ops=num_ops, has_mix=has_mix)


def check_box(layout: RecordLayout, smallest: int, largest: int) -> None:
    """Check that coordinates from ``smallest`` to ``largest`` fit the layout.

    Raises:
        TooNarrowError: they do not.
    """
    limits = np.iinfo(layout.box)
    if limits.min <= smallest and largest <= limits.max:
        return
    fits_int16 = layout.box == "uint16" and smallest >= -32768 and largest <= 32767
    raise TooNarrowError(replace(layout, box="int16" if fits_int16 else "int32"))


def record_dtype(label: LabelSpec, layout: RecordLayout) -> np.dtype[Any]:
    """The fields of a record; K is 0 for dense kinds."""
    stored = 0 if label.is_dense else label.num_stored
    id_type = "uint16" if label.num_classes <= _LARGEST_SHORT_ID else "int32"
    fields: list[tuple[str, str, tuple[int, ...]]] = [
        ("box", layout.box, (4,)),
        ("prob", layout.prob, (stored,)),
        ("class_id", id_type, (stored,)),
    ]
    if label.include_target:
        fields.append(("outside_prob", layout.prob, ()))
    if layout.weights == "uint8":
        fields.append(("weights", "uint8", ()))
    elif layout.weights == "float32":
        fields.append(("weights", "float32", (2,)))
    fields.append(("flip", "bool", ()))
    fields += [("level", "float32", (layout.num_ops,)), ("op", "uint8", (layout.num_ops,))]
    if layout.has_mix:
        fields += [("partner_id", "int32", ()), ("share", "float32", ()), ("cut", "int16", (4,))]
        fields += [("partner_box", layout.box, (4,)), ("partner_flip", "bool", ())]
        fields.append(("mix", "uint8", ()))
    little = [(name, np.dtype(kind).newbyteorder("<"), shape) for name, kind, shape in fields]
    used = [field for field in little if 0 not in field[2]]
    used.sort(key=lambda field: -field[1].itemsize)
    return np.dtype(used, align=True)


def describe(dtype: np.dtype[Any]) -> dict[str, Any]:
    """The fields in JSON, for ``meta.json``: type, shape and offset in bytes of each."""
    assert dtype.fields is not None
    fields = {
        name: {"type": kind.base.str, "shape": list(kind.shape), "offset": offset}
        for name, (kind, offset) in ((name, dtype.fields[name][:2]) for name in dtype.fields)
    }
    return {"stride": dtype.itemsize, "fields": fields}

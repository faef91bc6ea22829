"""Columns and types of every Parquet file of the store, format version 1.

Rows of crops, soft and calibrated parts stand for the same crops in the same order: by
(image_id, crop). Types are what pandas, DuckDB and polars read without surprises; small size comes
from the values and the encodings, not from narrow types.
"""

import pyarrow as pa

_BOX = [(name, pa.int32()) for name in ("top", "left", "height", "width")]
_KEY = [("image_id", pa.int32()), ("crop", pa.int16())]

IMAGES = pa.schema(
    [
        ("image_id", pa.int32()),
        ("path", pa.string()),
        ("class_id", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("num_bytes", pa.int64()),
        ("content_hash", pa.string()),
    ]
)
CLASSES = pa.schema([("class_id", pa.int32()), ("name", pa.string())])
REJECTS = pa.schema([("path", pa.string()), ("reason", pa.string())])
INFER_REJECTS = pa.schema(
    [("image_id", pa.int32()), ("path", pa.string()), ("reason", pa.string())]
)
SUSPECTS = pa.schema(
    [
        ("image_id", pa.int32()),
        ("path", pa.string()),
        ("class_id", pa.int32()),
        ("teacher_class", pa.int32()),
        ("agreement", pa.float32()),
        ("max_prob", pa.float32()),
        ("target_prob", pa.float32()),
    ]
)
SCORES = pa.schema([("image_id", pa.int32()), ("score", pa.float32())])
CROPS = pa.schema([*_KEY, *_BOX, ("flip", pa.bool_())])
MIX = pa.schema(
    [
        ("mix", pa.uint8()),
        ("share", pa.float32()),
        ("partner_id", pa.int32()),
        *[(f"partner_{name}", kind) for name, kind in _BOX],
        ("partner_flip", pa.bool_()),
        *[(f"cut_{name}", pa.int16()) for name, _ in _BOX],
    ]
)
CALIBRATED = pa.schema(
    [
        *_KEY,
        ("action", pa.uint8()),
        ("teacher_weight", pa.float32()),
        ("target_weight", pa.float32()),
    ]
)


def crops(num_ops: int, *, has_mix: bool = False) -> pa.Schema:
    """Columns of a table of crops with ``num_ops`` recorded operations, and those of mixing.

    Of none it is `CROPS`.
    """
    pairs = [
        field
        for place in range(num_ops)
        for field in ((f"op_{place}", pa.uint8()), (f"level_{place}", pa.float32()))
    ]
    return pa.schema([*CROPS, *pairs, *(MIX if has_mix else ())])


def soft(num_stored: int, *, has_max_prob: bool, has_outside_prob: bool) -> pa.Schema:
    """Columns of a sparse label table with ``num_stored`` classes a crop.

    ``target_prob`` and ``max_prob`` are the teacher's at temperature 1, before compression;
    ``max_prob`` stands only where it is not the column ``prob_0``. ``outside_prob`` is the label's
    probability of a ground truth outside the stored classes (null where it is among them).
    """
    optional = {"max_prob": has_max_prob, "outside_prob": has_outside_prob}
    scalars = ["target_prob", *[name for name, present in optional.items() if present]]
    return pa.schema(
        [
            *_KEY,
            ("target", pa.int32()),
            *[(name, pa.float32()) for name in scalars],
            *[(f"class_{k}", pa.int32()) for k in range(num_stored)],
            *[(f"prob_{k}", pa.float32()) for k in range(num_stored)],
        ]
    )

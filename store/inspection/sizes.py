"""How many bytes labels take: by the reference's arithmetic (FKD's Table 2), and here, measured."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from store.codecs import Kind, LabelSpec
from store.entries import Entry
from store.errors import DataError
from store.layout import Layout
from store.schema import MIX

_VALUE_BYTES = 4
_BOX_AND_FLIP = 5
"""Values that the reference stores of a crop besides its label: four of the box, one flip."""

PARTS_OF_A_CROP = (
    *("box", "flip", "operations", "mixing", "ids", "classes", "probabilities", "calibration"),
    "overhead",
)
"""What bytes are spent on. `operations`: recorded augmentation. `mixing`: with which image and how.
`ids`: image, crop, target. `calibration`: the teacher's maximum and the target's probability, that
training does not read. `overhead`: footers, indices, metadata."""

_USES = {
    **dict.fromkeys(("top", "left", "height", "width"), "box"),
    "flip": "flip",
    **dict.fromkeys(("image_id", "crop", "target"), "ids"),
    **dict.fromkeys(("max_prob", "target_prob"), "calibration"),
    **dict.fromkeys(MIX.names, "mixing"),
}


@dataclass(frozen=True, slots=True)
class KindSize:
    """Bytes of one kind of label in the reference's layout, where every value is a float32."""

    kind: str
    bytes_per_crop: int
    num_bytes: int
    """For as many crops as this store has."""


@dataclass(frozen=True, slots=True)
class ColumnSize:
    """Compressed bytes of one column, or array, summed over parts."""

    artifact: str
    column: str
    use: str
    """One of `PARTS_OF_A_CROP`."""
    num_bytes: int


def reference_bytes_per_crop(spec: LabelSpec) -> int:
    """Bytes a crop in the reference's layout: (5 + values of the label) x 4.

    hard stores a class, smoothing a class and a probability, the marginal kinds K of both, full a
    probability of every class: 24, 28, 60 (K = 5), 100 (K = 10) and 4,020 bytes for 1,000 classes.
    """
    values = {"hard": 1, "smoothing": 2, "full": spec.num_classes, "logits": spec.num_classes}
    return (_BOX_AND_FLIP + values.get(spec.kind, 2 * spec.num_stored)) * _VALUE_BYTES


def reference_sizes(spec: LabelSpec, num_crops: int) -> list[KindSize]:
    """FKD's Table 2 for so many crops and this store's classes; its own kind is among them."""
    num_classes = spec.num_classes
    ks = {k for k in (5, 10) if k < num_classes}
    if spec.kind.startswith("marginal"):
        ks.add(spec.num_stored)
    kinds: list[tuple[Kind, int]] = [
        ("hard", 1),
        ("smoothing", 1),
        *(("marginal_smoothing", k) for k in sorted(ks)),
        ("full", 1),
    ]
    named = [
        (
            kind + (f", K = {k}" if kind == "marginal_smoothing" else ""),
            LabelSpec(kind, k, num_classes),
        )
        for kind, k in kinds
    ]
    return [
        KindSize(name, size, size * num_crops)
        for name, each in named
        for size in [reference_bytes_per_crop(each)]
    ]


def column_sizes(layout: Layout, listed: Iterable[Entry]) -> list[ColumnSize]:
    """Bytes by artifact and column, from Parquet's footers and the sizes of Zarr's files.

    Raises:
        DataError: a file is missing or its footer is damaged.
    """
    total: Counter[tuple[str, str]] = Counter()
    for entry in listed:
        for name, record in entry.files.items():
            if name.endswith(".parquet"):
                columns = _parquet_columns(layout, entry, name)
                total.update({(entry.artifact, column): n for column, n in columns.items()})
                total[entry.artifact, ""] += record.num_bytes - sum(columns.values())
            else:
                total[entry.artifact, _array_of(name)] += record.num_bytes
    return [
        ColumnSize(artifact, column or "(footers, metadata)", _use(column), num_bytes)
        for (artifact, column), num_bytes in total.items()
    ]


def _parquet_columns(layout: Layout, entry: Entry, name: str) -> Counter[str]:
    path = layout.folder(entry.artifact) / name
    sizes: Counter[str] = Counter()
    try:
        footer = pq.read_metadata(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run `{entry.remake}`") from None
    except pa.ArrowException as error:
        raise DataError(f"{path} is damaged ({error}); run `{entry.remake}`") from None
    for group in range(footer.num_row_groups):
        chunks = footer.row_group(group)
        for place in range(footer.num_columns):
            column = chunks.column(place)
            sizes[column.path_in_schema] += column.total_compressed_size
    return sizes


def _array_of(name: str) -> str:
    """Name of the array that a file of a Zarr store belongs to; nothing for its metadata."""
    parts = name.split("/")
    return parts[1] if len(parts) > 2 and parts[-1] != "zarr.json" else ""


def _use(column: str) -> str:
    if not column:
        return "overhead"
    if column in _USES:
        return _USES[column]
    if column.startswith(("op_", "level_")):
        return "operations"
    return "classes" if column.startswith("class_") else "probabilities"

"""Bytes of a store and what its rounding costs.

Shapes: N rows (crops), K classes kept, C classes.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.arrays import Labels
from benchmarks.measure import folder_bytes
from benchmarks.peers.ours import read_part
from store import entries
from store.codecs import LabelSpec, SparseLabels, to_entries
from store.entries import Entry
from store.layout import Layout, part_name

_NOT_NEEDED = ("target_prob",)
"""Columns that no training reads: calibration does."""
_KL_ROWS = 100_000
_SMALLEST_TAIL = 1e-12
"""A tail of 0 where something was left would cost infinitely much; it counts as this."""

F64 = NDArray[np.float64]


def column_bytes(file: Path) -> dict[str, int]:
    """Compressed size of each column of a Parquet file."""
    metadata = pq.ParquetFile(file).metadata
    sizes: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            name = chunk.path_in_schema
            sizes[name] = sizes.get(name, 0) + chunk.total_compressed_size
    return sizes


def store_bytes(layout: Layout) -> dict[str, float]:
    """Bytes a crop: whole folders with entries and manifests, less columns no training reads."""
    rows = sum(entry.rows for entry in entries.list_entries(layout, "soft"))
    total = {name: folder_bytes(layout.folder(name)) for name in ("crops", "soft", "images")}
    files = sorted(layout.folder("soft").glob("part-*.parquet"))
    unused = sum(column_bytes(file).get(name, 0) for file in files for name in _NOT_NEEDED)
    return {
        "bytes_per_crop": (total["crops"] + total["soft"] - unused) / rows,
        "label_bytes_per_crop": (total["soft"] - unused) / rows,
        "unused_bytes_per_crop": unused / rows,
        "images_bytes_per_crop": total["images"] / rows,
    }


def columns_per_crop(layout: Layout, shard: int = 0) -> dict[str, float]:
    """Bytes a crop of each column of one shard."""
    found: dict[str, float] = {}
    for artifact in ("crops", "soft"):
        file = layout.table(artifact, part_name(shard))
        rows = pq.ParquetFile(file).metadata.num_rows
        for name, size in column_bytes(file).items():
            found[f"{artifact}.{name}"] = round(size / rows, 3)
    return found


def soft_entry(layout: Layout, shard: int = 0) -> Entry:
    """The entry of a shard's labels, which must be there."""
    entry = entries.find_entry(layout, "soft", part_name(shard))
    assert entry is not None, "the shard was written before"
    return entry


def read_stored(layout: Layout, labels: Labels, shard: int = 0) -> Labels:
    """What the store holds of ``labels``, in their order."""
    read = read_part(layout, soft_entry(layout, shard))
    return Labels(labels.table, read.boxes, read.flips, read.class_ids.astype("i4"), read.probs)


def divergence(spec: LabelSpec, given: Labels, stored: Labels) -> tuple[float, float]:
    """Mean and largest KL divergence of the stored labels from those given, in nats.

    What the kept classes leave is spread evenly in both. Classes must be the same ones.
    """
    assert np.array_equal(given.class_ids, stored.class_ids), "other classes than were given"
    exact = given.probs.reshape(-1, given.k).astype(np.float64)
    ids, probs = stored.class_ids.reshape(-1, given.k), stored.probs.reshape(-1, given.k)
    found = np.empty(len(exact))
    for start in range(0, len(exact), _KL_ROWS):
        cut = slice(start, start + _KL_ROWS)
        found[cut] = _divergence(spec, exact[cut], SparseLabels(ids[cut], probs[cut]))
    return float(found.mean()), float(found.max())


def _divergence(spec: LabelSpec, exact: F64, stored: SparseLabels) -> F64:
    _, weights, tail = to_entries(spec, stored, np.zeros(len(exact), np.int32))
    kept = np.maximum(weights.astype(np.float64) + tail[:, None], _SMALLEST_TAIL)
    # Of labels that were rounded before they came here the sum may be above 1: no rest then.
    exact = exact / np.maximum(exact.sum(axis=1, keepdims=True), 1.0)
    rest = np.maximum(1.0 - exact.sum(axis=1), 0.0)
    left = np.maximum(tail.astype(np.float64) * (spec.num_classes - spec.num_stored), 0.0)
    positive = exact > 0
    terms = np.where(positive, exact * np.log(np.where(positive, exact, 1.0) / kept), 0.0)
    spread = rest * np.log(np.maximum(rest, _SMALLEST_TAIL) / np.maximum(left, _SMALLEST_TAIL))
    return np.asarray(terms.sum(axis=1) + spread)

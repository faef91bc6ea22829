"""Stored labels of a few rows as probabilities of every class.

Shapes: N rows (crops), K stored classes, C classes.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import entries, tables
from store.codecs import LabelSpec, SparseLabels, to_dense
from store.dense_codecs import decode_full
from store.errors import DataError, ParamsError
from store.notebook.shard_tables import KEY, ShardTables
from store.overlay import combine_dense
from store.soft_part import SoftPart

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MAX_BYTES = 1 << 30
"""Of probabilities that one call gives; making them takes a few times as much."""


def label_spec(store: ShardTables) -> LabelSpec:
    """The kind of label of the store.

    Raises:
        DataError: there are no labels.
    """
    paths = entries.entry_paths(store.layout, "soft")
    listed = [path for path in paths if path.name.startswith("_part-")]
    if not listed:
        raise DataError(
            f"{store.layout.folder('soft')} holds no labels; run `ferkd-pipeline stage compress`"
        )
    return SoftPart(store.layout, entries.read_entry(listed[0])).spec


def decode(store: ShardTables, rows: pa.Table, *, calibrated: bool) -> F64:
    """Return (N, C) probabilities of ``rows``, which carry the columns that `soft` gives.

    NaN where the crop is rejected; with ``calibrated`` also where it is dropped.

    Raises:
        ParamsError: too many rows, or columns are missing.
        DataError: kind `logits`, or labels of these rows are not there.
    """
    spec = label_spec(store)
    if spec.kind == "logits":
        raise DataError(
            "kind logits has no classes and no probabilities: the softmax is the training's, with "
            "its temperature; read the values with store.arrays('soft', shard)"
        )
    num_bytes = rows.num_rows * spec.num_classes * 8
    if num_bytes > MAX_BYTES:
        raise ParamsError(
            f"{rows.num_rows:,} rows of {spec.num_classes:,} classes are {num_bytes / 1e9:,.1f} GB "
            "of probabilities; decode fewer rows at once, such as rows.sample(1000)"
        )
    if spec.kind == "full":
        probs = decode_full(_stored_dense(store, rows, spec.num_classes))
    else:
        probs = to_dense(spec, _sparse(spec, rows), _numbers(rows, "target"))
    if not calibrated:
        return probs
    weights = [_numbers(rows, name) for name in ("teacher_weight", "target_weight")]
    return combine_dense(probs, _numbers(rows, "target"), weights[0], weights[1])


def rank(probs: F64, num: int) -> tuple[I64, F64]:
    """The ``num`` most probable classes of every row and their probabilities, both (N, num).

    Ties go to the lower class id. -1 and NaN in rows without a label.
    """
    order = np.argsort(-probs, axis=1, kind="stable")[:, :num]
    top = np.take_along_axis(probs, order, axis=1)
    return np.where(np.isnan(top), -1, order), top


def _sparse(spec: LabelSpec, rows: pa.Table) -> SparseLabels:
    if (other := f"class_{spec.num_stored}") in rows.column_names:
        raise DataError(
            f"these rows have {other}, but labels of this store keep {spec.num_stored} classes: "
            "their shard was made with other parameters; run `ferkd-pipeline stage compress`"
        )
    ids = [_numbers(rows, f"class_{k}") for k in range(spec.num_stored)]
    probs = [_numbers(rows, f"prob_{k}") for k in range(spec.num_stored)]
    return SparseLabels(
        np.stack(ids, axis=1).astype(np.int32),
        np.stack(probs, axis=1).astype(np.float32),
        _numbers(rows, "outside_prob") if spec.include_target else None,
    )


def _numbers(rows: pa.Table, name: str) -> NDArray[Any]:
    if name not in rows.column_names:
        how = "labels(shard, calibration=...)" if name.endswith("_weight") else "labels(shard)"
        raise ParamsError(f"these rows have no column {name}; take them from store.{how}")
    return tables.column(rows, name)


def _stored_dense(store: ShardTables, rows: pa.Table, num_classes: int) -> NDArray[np.float32]:
    """(N, C) stored probabilities of kind full; every image is read once, neighbours together."""
    ids, crops = (_numbers(rows, name) for name in KEY)
    stored = np.empty((rows.num_rows, num_classes), dtype=np.float32)
    images, inverse = np.unique(ids, return_inverse=True)
    done = 0
    while done < len(images):
        shard, place = store.find(int(images[done]))
        store.require_fit(shard)
        reader = store.arrays("soft", shard)
        # As many following images as lie side by side in this shard.
        room = min(reader.num_images - place, len(images) - done)
        steps = images[done : done + room] - images[done]
        run = int(np.count_nonzero(steps == np.arange(room)))
        found = reader.read("prob", place, place + run)
        own = np.flatnonzero((inverse >= done) & (inverse < done + run))
        stored[own] = found[inverse[own] - done, crops[own]]
        done += run
    return stored

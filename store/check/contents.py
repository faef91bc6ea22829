"""Whether the rows of a part keep the rules of docs/format.md. Reads every value.

Shapes: N rows (crops), M crops an image, K classes stored, C classes.
"""

from collections.abc import Callable, Iterator
from itertools import count, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from store import mixing, operations, tables
from store.arrays import ArrayReader, reject_value
from store.check.damage import UNREADABLE, Damage, of_entry
from store.check.expected import Expected, wrong_count
from store.codecs import LabelSpec
from store.digest import RowsDigest
from store.entry import Entry
from store.layout import Layout
from store.overlay import Action
from store.soft_part import SoftPart

Columns = dict[str, NDArray[Any]]

_BLOCK_ROWS = 200_000
_ROUNDING = 0.05
"""By how much stored probabilities may sum to more than 1: coarse grids err by 3 % each."""


def check(layout: Layout, entry: Entry, expected: Expected) -> list[Damage]:
    """What is wrong with the rows of a part whose bytes are right, one finding a rule."""
    is_table = f"{entry.stem}.parquet" in entry.files
    path = (layout.table if is_table else layout.arrays)(entry.artifact, entry.stem)
    digest, wrong = RowsDigest(), dict[str, None]()
    try:
        if kind := wrong_count(layout, entry, expected):
            return [of_entry(layout, entry, kind, path)]
        rules = _rules(layout, entry, expected)
        for first, block in _blocks(layout, entry, expected.num_crops):
            digest.update(block)
            wrong |= dict.fromkeys(rules(first, block))
    except UNREADABLE as error:
        wrong[f"its rows cannot be checked ({' '.join(str(error).split())})"] = None
    else:
        if digest.hexdigest() != entry.rows_digest:
            wrong["its rows are not those of its entry's rows digest"] = None
    return [of_entry(layout, entry, kind, path) for kind in wrong]


def _blocks(layout: Layout, entry: Entry, num_crops: int) -> Iterator[tuple[int, Columns]]:
    """(rows before, columns) of a part's blocks of whole images, in order."""
    if f"{entry.stem}.parquet" not in entry.files:
        reader = ArrayReader(layout.arrays(entry.artifact, entry.stem))
        for start, stop in reader.blocks():
            yield start, {name: reader.read(name, start, stop) for name in reader.names}
        return
    first = 0
    size = max(1, _BLOCK_ROWS // num_crops) * num_crops
    with pq.ParquetFile(layout.table(entry.artifact, entry.stem)) as file:
        batches = file.iter_batches(size, use_threads=False)
        for batch in batches if file.metadata.num_rows else [_empty(file.schema_arrow)]:
            table = pa.Table.from_batches([batch])
            yield first, tables.columns(table)
            first += table.num_rows


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


def _rules(
    layout: Layout, entry: Entry, expected: Expected
) -> Callable[[int, Columns], Iterator[str]]:
    family = entry.artifact.split("/")[0]
    if family == "images":
        return lambda first, block: _images(first, block, expected.images.num_classes)
    if family == "rejects":
        return lambda first, block: iter(())
    if family == "scores":
        return _scores
    if family == "predictions":
        return lambda first, block: _predictions(first, block, expected, entry)
    if family == "calibrated":
        return lambda first, block: _in_order(first, block, expected, _calibrated)
    if family == "crops":
        num_images = len(expected.images)
        has_mix = mixing.has_mix(entry)
        return lambda first, block: _in_order(
            first, block, expected, lambda columns, _: _crops(columns, num_images, has_mix)
        )
    spec = SoftPart(layout, entry).spec
    if spec.is_dense:
        return lambda first, block: _dense(first, block, expected, spec)
    return lambda first, block: _in_order(
        first, block, expected, lambda columns, targets: _sparse(columns, targets, spec)
    )


def _in_order(
    first: int,
    block: Columns,
    expected: Expected,
    rules: Callable[[Columns, NDArray[np.int32]], Iterator[str]],
) -> Iterator[str]:
    """Rows by (image_id, crop), M of each image of the shard; then the rules of the table."""
    rows = np.arange(first, first + len(block["image_id"]), dtype=np.int64)
    image_ids = expected.start + rows // expected.num_crops
    is_row = block["image_id"] == image_ids
    if not (is_row & (block["crop"] == rows % expected.num_crops)).all():
        yield (
            f"its rows are not crops 0 to {expected.num_crops - 1} of each image from "
            f"{expected.start} to {expected.stop - 1} in this order"
        )
    else:
        yield from rules(block, expected.images.class_ids[image_ids])


def _crops(block: Columns, num_images: int, has_mix: bool) -> Iterator[str]:
    if (block["height"] < 1).any() or (block["width"] < 1).any():
        yield "it has boxes without a pixel"
    num_ops = next(k for k in count() if not {f"op_{k}", f"level_{k}"} <= block.keys())
    if num_ops and (wrong := operations.what_is_wrong(operations.from_columns(block, num_ops))):
        yield f"it has {wrong}, which docs/format.md does not allow"
    if not has_mix:
        return
    mix = mixing.from_columns(block)
    if wrong := mixing.what_is_wrong(mix, block["image_id"], num_images):
        yield f"it has {wrong}, which docs/format.md does not allow"


def _calibrated(block: Columns, _: NDArray[np.int32]) -> Iterator[str]:
    action, a, b = (block[name] for name in ("action", "teacher_weight", "target_weight"))
    if not np.isin(action, [action.value for action in Action]).all():
        yield "it has actions that docs/format.md does not list"
    without = (action == Action.DROP) | (action == Action.REJECT)
    if not (np.isnan(a) == without).all() or not (np.isnan(b) == without).all():
        yield "its weights are null elsewhere than in dropped and rejected rows"
    if ((a < 0) | (b < 0) | (a.astype(np.float64) + b > 1 + 1e-5)).any():
        yield "it has weights below 0 or with a sum above 1"


def _sparse(block: Columns, targets: NDArray[np.int32], spec: LabelSpec) -> Iterator[str]:
    names = range(spec.num_stored)
    ids = np.stack([block[f"class_{k}"] for k in names], axis=1)
    probs = np.stack([block[f"prob_{k}"] for k in names], axis=1)
    rejected = np.isnan(probs[:, 0])
    yield from _targets(block["target"], targets)
    if not (ids[rejected] == -1).all() or not _in_range(ids[~rejected], spec.num_classes):
        yield f"it has class ids that are not below {spec.num_classes}"
    elif not _distinct(ids[~rejected]):
        yield "it has a class twice in a row"
    yield from _probabilities(probs, rejected)
    if spec.num_stored > 1 and (np.diff(probs[~rejected], axis=1) > 0).any():
        yield "it has probabilities that rise from one rank to the next"
    yield from _scalars(block, rejected)


def _targets(found: NDArray[Any], wanted: NDArray[np.int32]) -> Iterator[str]:
    if not np.array_equal(found, wanted):
        yield "its targets are not the classes of the images"


def _in_range(ids: NDArray[Any], num_classes: int) -> bool:
    return bool(((ids >= 0) & (ids < num_classes)).all())


def _distinct(ids: NDArray[Any]) -> bool:
    ranked = np.sort(ids, axis=1)
    return not bool((ranked[:, 1:] == ranked[:, :-1]).any())


def _probabilities(probs: NDArray[Any], rejected: NDArray[np.bool_]) -> Iterator[str]:
    if not (np.isnan(probs) == rejected[:, None]).all():
        yield "it has rows that are null in part"
    kept = probs[~rejected]
    if ((kept < 0) | (kept > 1)).any():
        yield "it has probabilities outside 0 to 1"
    if (kept.sum(axis=1, dtype=np.float64) > 1 + _ROUNDING).any():
        yield "it has rows of probabilities with a sum above 1"


def _scalars(block: Columns, rejected: NDArray[np.bool_]) -> Iterator[str]:
    """``target_prob`` and ``max_prob``; ``outside_prob`` is null in other rows too."""
    for name in ("target_prob", "max_prob", "outside_prob"):
        if name not in block:
            continue
        values = block[name].reshape(-1)
        if ((values < 0) | (values > 1)).any():
            yield f"{name} is outside 0 to 1"
        if name != "outside_prob" and not (np.isnan(values) == rejected).all():
            yield f"{name} is null in other rows than the label"


def _dense(first: int, block: Columns, expected: Expected, spec: LabelSpec) -> Iterator[str]:
    ids = np.arange(first, first + len(block["image_id"])) + expected.start
    yield from _image_ids(block["image_id"], ids)
    if "target" in block:
        yield from _targets(block["target"], expected.images.class_ids[ids])
    values = block["prob" if spec.kind == "full" else "logit"]
    flat = values.reshape(-1, values.shape[-1])
    rejected = np.isnan(flat[:, 0])
    if spec.kind == "full":
        yield from _probabilities(flat, rejected)
        yield from _scalars(block, rejected)
    elif not np.isfinite(flat[~rejected]).all():
        yield "it has logits that are not finite"


def _image_ids(found: NDArray[Any], wanted: NDArray[Any]) -> Iterator[str]:
    if not np.array_equal(found, wanted):
        yield "its images are not those of the shard"


def _predictions(first: int, block: Columns, expected: Expected, entry: Entry) -> Iterator[str]:
    ids = np.arange(first, first + len(block["image_id"])) + expected.start
    yield from _image_ids(block["image_id"], ids)
    floats = {name: array for name, array in block.items() if array.dtype.kind == "f"}
    marks = [np.isnan(array).reshape(len(ids), -1) for array in floats.values()]
    rejected = marks[0].any(axis=1) if marks else np.zeros(len(ids), np.bool_)
    if not all((mark.all(axis=1) == rejected).all() for mark in marks):
        yield "it has images that are rejected in part"
    for name, values in floats.items():
        if name in ("logp", "topk_logp", "target_logp") and (values > 0).any():
            yield f"{name} is above 0"
    if "logit" in block and np.isinf(block["logit"]).any():
        yield "it has logits that are not finite"
    if "topk_class" in block:
        classes, num_classes = block["topk_class"], int(entry.attribute("num_classes"))
        mark = reject_value(classes.dtype.str)
        if not (classes[rejected] == mark).all():
            yield "it has classes for images that are rejected"
        if not _in_range(classes[~rejected], num_classes):
            yield f"it has class ids that are not below {num_classes}"


def _scores(first: int, block: Columns) -> Iterator[str]:
    yield from _image_ids(block["image_id"], np.arange(first, first + len(block["image_id"])))
    if np.isinf(block["score"]).any():
        yield "it has scores that are infinite"


def _images(first: int, block: Columns, num_classes: int) -> Iterator[str]:
    rows = np.arange(first, first + len(block["image_id"]))
    yield from _image_ids(block["image_id"], rows)
    if not _in_range(block["class_id"], num_classes):
        yield f"it has class ids that are not below {num_classes}"
    paths = [str(path).encode() for path in block["path"]]
    if any(a >= b for a, b in pairwise(paths)):
        yield "its paths are not sorted, or one stands there twice"
    if (block["height"] < 1).any() or (block["width"] < 1).any():
        yield "it has images without a pixel"

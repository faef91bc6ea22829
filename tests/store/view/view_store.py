"""Small stores for the training view: any kind, any width of boxes, ids and weights.

Shapes: N images, M crops, K stored classes, C classes. The tables hold what is given to them; the
lineage is the least that a view asks for.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from store import images, shelf, tables
from store.arrays import ArraySpec, ArrayWriter
from store.batch import RecordedOps
from store.codecs import LabelSpec, SparseLabels, encode
from store.dense_codecs import encode_full, encode_logits
from store.digest import RowsDigest
from store.entries import Entry
from store.images import ImageTable
from store.layout import Layout, part_name
from store.operations import columns_of
from store.parts import PartWriter
from store.schema import CALIBRATED, CROPS, soft
from store.schema import crops as crop_schema
from store.view.build import plan_view
from store.view.reader import TrainingView

NUM_IMAGES, NUM_SHARDS = 7, 2
NAME = "own"


T = TypeVar("T")


def given_in(value: T | None) -> T:
    """A value that is there."""
    assert value is not None
    return value


@dataclass(frozen=True)
class Content:
    """What a store is to hold."""

    spec: LabelSpec
    boxes: NDArray[np.int32]
    """(N, M, 4)"""
    flips: NDArray[np.bool_]
    """(N, M)"""
    targets: NDArray[np.int32]
    """(N,)"""
    labels: SparseLabels | None
    """Of N * M crops, for the sparse kinds."""
    dense: NDArray[np.float16] | None = None
    """(N, M, C)"""
    weights: NDArray[np.float32] | None = None
    """(N, M, 2) a and b; NaN where dropped."""
    ops: RecordedOps | None = None
    """(N, M, P)"""

    @property
    def num_crops(self) -> int:
        """M."""
        return len(self.flips[0])


def random_content(
    spec: LabelSpec,
    seed: int = 0,
    *,
    num_crops: int = 5,
    boxes: tuple[int, int] = (0, 500),
    weights: NDArray[np.float32] | None = None,
) -> Content:
    """Labels of a random teacher; box coordinates reach from ``boxes[0]`` to ``boxes[1]``."""
    rng, shape = np.random.default_rng(seed), (NUM_IMAGES, num_crops)
    own = rng.integers(*boxes, (*shape, 4), endpoint=True).astype(np.int32)
    own.reshape(-1)[:2] = boxes
    targets = rng.integers(0, spec.num_classes, NUM_IMAGES).astype(np.int32)
    labels, dense = None, None
    if spec.kind == "full":
        probs = rng.dirichlet(np.full(spec.num_classes, 0.4), shape)
        dense = encode_full(probs.reshape(-1, spec.num_classes)).astype(np.float16)
    elif spec.kind == "logits":
        values = 5 * rng.normal(size=(NUM_IMAGES * num_crops, spec.num_classes))
        dense = encode_logits(values, spec.normalize)
    else:
        labels = _random_labels(spec, rng, np.repeat(targets, num_crops))
    if dense is not None:
        dense = dense.reshape(*shape, -1)
    flips = rng.random(shape) < 0.5
    return Content(spec, own, flips, targets, labels, dense, weights)


def _random_labels(
    spec: LabelSpec, rng: np.random.Generator, target: NDArray[np.int32]
) -> SparseLabels:
    num_rows, k = len(target), spec.num_stored
    ids = np.stack([rng.choice(spec.num_classes, k, replace=False) for _ in range(num_rows)])
    ids[0, 0] = spec.num_classes - 1
    probs = -np.sort(-rng.dirichlet(np.full(k + 1, 0.5), num_rows)[:, :k], axis=1)
    if k == spec.num_classes:
        probs /= probs.sum(axis=1, keepdims=True)
    at_target = probs[:, -1] / 2
    return encode(spec, ids.astype(np.int32), probs, target, at_target)


def build(root: Path, content: Content) -> Layout:
    """Write images, crops, labels and, where there are weights, the calibration `NAME`."""
    layout = Layout.beside(root)
    table = ImageTable(
        paths=np.array([f"klasse/ß{i}.jpg" for i in range(NUM_IMAGES)], dtype=object),
        class_ids=content.targets,
        heights=np.full(NUM_IMAGES, 400, np.int32),
        widths=np.full(NUM_IMAGES, 500, np.int32),
        content_hashes=np.array(["0" * 32] * NUM_IMAGES, dtype=object),
        class_names=tuple(f"c{c}" for c in range(content.spec.num_classes)),
    )
    if content.spec.kind == "logits":
        table.class_names = ("one", "two")  # a projection head has outputs, not classes
    _write_images(layout, table)
    for shard in range(NUM_SHARDS):
        _write_shard(layout, table, content, shard)
    return layout


def open_view(layout: Layout, calibration: str | None = None) -> TrainingView:
    """The view of a store that `build` wrote."""
    return plan_view(layout, NUM_SHARDS, layout.root.parent / "data", calibration).open()


def _part(layout: Layout, artifact: str, stem: str, **inputs: str) -> PartWriter:
    return PartWriter(layout, artifact, stem, "test", "0" * 64, {"inputs": inputs})


def _write_images(layout: Layout, table: ImageTable) -> None:
    rows, classes = images.image_tables(table, np.full(len(table), 9, np.int64))
    _part(layout, "images", images.STEM).publish_table(rows, {}, beside={"classes": classes})


def _write_shard(layout: Layout, table: ImageTable, content: Content, shard: int) -> None:
    start, stop = images.shard_bounds(NUM_IMAGES, NUM_SHARDS, shard)
    own, stem, m = table.slice(start, stop), part_name(shard), content.num_crops
    key: dict[str, NDArray[Any]] = {
        "image_id": np.repeat(np.arange(start, stop, dtype=np.int32), m),
        "crop": np.tile(np.arange(m, dtype=np.int16), stop - start),
    }
    boxes = content.boxes[start:stop].reshape(-1, 4)
    columns: dict[str, NDArray[Any]] = {
        name: boxes[:, i] for i, name in enumerate(("top", "left", "height", "width"))
    }
    columns["flip"] = content.flips[start:stop].reshape(-1)
    schema, attributes = CROPS, {"num_crops": m}
    if content.ops is not None:
        attributes["num_ops"] = content.ops.codes.shape[-1]
        schema = crop_schema(attributes["num_ops"])
        cut = slice(start, stop)
        columns |= columns_of(RecordedOps(content.ops.codes[cut], content.ops.levels[cut]))
    crops = _part(
        layout, "crops", stem, images=own.digest(start, "paths", "heights", "widths")
    ).publish_table(
        tables.make_table(schema, {**key, **columns}), {}, attributes=attributes, rows_per_image=m
    )
    labels = _write_labels(layout, own, content, shard, crops, key)
    if content.weights is not None:
        flat = content.weights[start:stop].reshape(-1, 2)
        rows: dict[str, NDArray[Any]] = {
            **key,
            "action": np.isnan(flat[:, 0]).astype(np.uint8),
            "teacher_weight": flat[:, 0],
            "target_weight": flat[:, 1],
        }
        part = _part(layout, f"calibrated/{NAME}", stem, soft=labels.rows_digest)
        part.publish_table(tables.make_table(CALIBRATED, rows), {}, rows_per_image=m)


def _write_labels(
    layout: Layout,
    own: ImageTable,
    content: Content,
    shard: int,
    crops: Entry,
    key: dict[str, NDArray[Any]],
) -> Entry:
    start, stop = images.shard_bounds(NUM_IMAGES, NUM_SHARDS, shard)
    stem, spec, m = part_name(shard), content.spec, content.num_crops
    targets = own.digest(start, "class_ids")
    part = _part(layout, "soft", stem, crops=crops.rows_digest, targets=targets)
    attributes = {"num_crops": m, "label": asdict(spec)}
    if content.dense is not None:
        return _write_dense(layout, part, content, slice(start, stop), attributes)
    assert content.labels is not None
    rows = slice(start * m, stop * m)
    ids, probs = content.labels.class_ids[rows], content.labels.probs[rows]
    outside = content.labels.target_prob
    values: dict[str, Any] = {
        **key,
        "target": np.repeat(own.class_ids, m),
        "target_prob": probs[:, 0],
        "outside_prob": None if outside is None else outside[rows],
        **{f"class_{k}": ids[:, k] for k in range(spec.num_stored)},
        **{f"prob_{k}": probs[:, k] for k in range(spec.num_stored)},
    }
    schema = soft(spec.num_stored, has_max_prob=False, has_outside_prob=spec.include_target)
    table = tables.make_table(schema, values)
    return part.publish_table(table, {}, attributes=attributes, rows_per_image=m)


def _write_dense(
    layout: Layout, part: PartWriter, content: Content, own: slice, attributes: dict[str, Any]
) -> Entry:
    assert content.dense is not None
    name, last = ("logit", "output") if content.spec.kind == "logits" else ("prob", "class")
    values = {
        "image_id": np.arange(own.start, own.stop, dtype=np.int32),
        "target": content.targets[own],
        name: content.dense[own],
    }
    specs = {
        "image_id": ArraySpec("int32"),
        "target": ArraySpec("int32"),
        name: ArraySpec("float16", content.dense.shape[1:], ("crop", last)),
    }
    num_images, folder = own.stop - own.start, layout.resumable("compress", f"{own.start:064d}")
    described = part.metadata(attributes)
    arrays = ArrayWriter(folder, specs, num_images=num_images, block_images=2, attributes=described)
    digest = RowsDigest()
    for block in range(arrays.num_blocks):
        first, last_one = arrays.bounds(block)
        piece = {key: array[first:last_one] for key, array in values.items()}
        arrays.write(block, piece)
        digest.update(piece)
    num_rows = num_images * content.num_crops
    entry = part.publish_arrays(
        arrays.path, num_rows, digest.hexdigest(), {}, attributes=attributes
    )
    shelf.clear(folder)
    return entry

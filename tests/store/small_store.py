"""A small label store, built through the store's own writers: no images, no teacher, numpy only.

Shapes: N = 8 images in 2 shards, M = 4 crops, C = 5 classes, K stored classes.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from store import entries, fit_file, images, recorded, shelf, tables
from store.arrays import ArraySpec, ArrayWriter, class_dtype, reject_value
from store.codecs import LabelSpec, encode
from store.dense_codecs import encode_full
from store.digest import RowsDigest, sha256_json
from store.entries import Entry
from store.images import ImageTable
from store.layout import Layout, part_name
from store.overlay import Action
from store.parts import PartWriter
from store.precision import round_probability
from store.random import CropPlan, draw_boxes, draw_flips, path_hashes
from store.schema import CALIBRATED, CROPS, INFER_REJECTS, REJECTS, soft

NUM_IMAGES, NUM_SHARDS, NUM_CROPS, NUM_CLASSES, BLOCK = 8, 2, 4, 5, 3
REJECTED = 5
"""The image that the teacher could not use."""
ALL_DROPPED = 2
"""The image of which the calibration drops every crop."""
NAME = "mixed"
"""The one calibration of the store."""
SPEC = LabelSpec("marginal_smoothing", 2, NUM_CLASSES, "float16")

_WEIGHTS = {
    Action.KEEP: (1.0, 0.0),
    Action.DROP: (np.nan, np.nan),
    Action.SOFTEN: (0.0, 0.875),
    Action.REVISE: (0.7, 0.3),
    Action.REJECT: (np.nan, np.nan),
}


@dataclass(frozen=True)
class SmallStore:
    """Where the store lies, and what it was made of."""

    layout: Layout
    spec: LabelSpec
    table: ImageTable
    boxes: NDArray[np.int32]
    """(N, M, 4)"""
    flips: NDArray[np.bool_]
    """(N, M)"""
    probs: NDArray[np.float64]
    """(N, M, C) of the teacher, NaN for the rejected image."""
    actions: NDArray[np.uint8]
    """(N, M)"""

    @property
    def root(self) -> Path:
        return self.layout.root


def image_table() -> ImageTable:
    rng = np.random.default_rng(0)
    class_ids = np.arange(NUM_IMAGES, dtype=np.int32) % NUM_CLASSES
    paths = sorted(f"klasse {class_id}/bild-ß-{i}.jpg" for i, class_id in enumerate(class_ids))
    return ImageTable(
        paths=np.array(paths, dtype=object),
        class_ids=np.array([int(path[7]) for path in paths], np.int32),
        heights=rng.integers(20, 400, NUM_IMAGES).astype(np.int32),
        widths=rng.integers(20, 400, NUM_IMAGES).astype(np.int32),
        content_hashes=np.array([f"{i:032x}" for i in range(NUM_IMAGES)], dtype=object),
        class_names=tuple(f"klasse {c}" for c in range(NUM_CLASSES)),
    )


def build(root: Path, spec: LabelSpec = SPEC, *, seed: int = 0) -> SmallStore:
    """Write a whole store: images, rejects, crops, predictions, labels, one calibration."""
    table, rng = image_table(), np.random.default_rng(seed)
    hashes = path_hashes(table.paths)
    logits = 2 * rng.normal(size=(NUM_IMAGES, NUM_CROPS, NUM_CLASSES))
    logits[np.arange(NUM_IMAGES), :, table.class_ids] += 1.5
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    probs[REJECTED] = np.nan
    small = SmallStore(
        layout=Layout.beside(root),
        spec=spec,
        table=table,
        boxes=draw_boxes(seed, hashes, table.heights, table.widths, NUM_CROPS, CropPlan()),
        flips=draw_flips(seed, hashes, NUM_CROPS, 0.5),
        probs=probs,
        actions=_actions(),
    )
    _write_images(small)
    for shard in range(NUM_SHARDS):
        crops = _write_crops(small, shard)
        predictions = _write_predictions(small, shard, crops)
        labels = _write_soft(small, shard, crops, predictions)
        _write_overlay(small, shard, labels)
    fit_file.write(small.layout, f"calibrated/{NAME}", {"made_of": {}, "fit": {"low": 1e-05}})
    for artifact in ("images", "rejects", "crops", "predictions", "soft", f"calibrated/{NAME}"):
        entries.write_manifest(small.layout, artifact)
    return small


def writer(
    layout: Layout, artifact: str, stem: str, stage: str, inputs: dict[str, Any], params: Any = None
) -> PartWriter:
    lineage = {"revision": 1, "params": params or {"low": 1e-05}, "inputs": inputs}
    key = sha256_json({"stage": stage, "stem": stem, **lineage})
    return PartWriter(layout, artifact, stem, stage, key, lineage)


def publish_rows(
    layout: Layout, artifact: str, stem: str, stage: str, inputs: dict[str, Any], rows: Any
) -> Entry:
    """Publish a table of crops with an own key."""
    return writer(layout, artifact, stem, stage, inputs).publish_table(
        rows, {"num_images": rows.num_rows // NUM_CROPS}, rows_per_image=NUM_CROPS
    )


def republish_with(
    small: SmallStore,
    artifact: str,
    stem: str,
    *,
    inputs: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    columns: dict[str, Any] | None = None,
) -> Entry:
    """Publish a part again as its writer would, of other inputs, and so on, and record it."""
    entry = entries.read_entry(small.layout.entry(artifact, stem))
    table = tables.read_table(small.layout.table(artifact, stem))
    lineage = {**entry.lineage, "inputs": {**entry.lineage["inputs"], **(inputs or {})}}
    lineage["params"] = {**entry.lineage["params"], **(params or {})}
    part = PartWriter(small.layout, artifact, stem, entry.stage, sha256_json(lineage), lineage)
    rows = tables.make_table(
        table.schema.remove_metadata(), {**tables.columns(table), **(columns or {})}
    )
    published = part.publish_table(
        rows, entry.numbers, attributes=entry.attributes, rows_per_image=NUM_CROPS
    )
    entries.write_manifest(small.layout, artifact)
    return published


def _actions() -> NDArray[np.uint8]:
    cycle = (Action.KEEP, Action.SOFTEN, Action.REVISE, Action.DROP)
    rows = np.add.outer(np.arange(NUM_IMAGES), np.arange(NUM_CROPS)) % len(cycle)
    actions: NDArray[np.uint8] = np.array(cycle, np.uint8)[rows]
    actions[ALL_DROPPED] = Action.DROP
    actions[REJECTED] = Action.REJECT
    return actions


def bounds(shard: int) -> slice:
    return slice(*images.shard_bounds(NUM_IMAGES, NUM_SHARDS, shard))


def _key_columns(shard: int) -> dict[str, Any]:
    ids = np.arange(NUM_IMAGES, dtype=np.int32)[bounds(shard)]
    crops = np.tile(np.arange(NUM_CROPS, dtype=np.int16), len(ids))
    return {"image_id": np.repeat(ids, NUM_CROPS), "crop": crops}


def _write_images(small: SmallStore) -> None:
    table = small.table
    rows, classes = images.image_tables(table, np.full(len(table), 1000, np.int64))
    writer(small.layout, "images", images.STEM, "index", {}).publish_table(
        rows,
        {"num_images": len(table), "num_classes": NUM_CLASSES},
        beside={"classes": classes},
    )
    rejects = {"path": ["klasse 0/leer.jpg"], "reason": ["it is empty"]}
    writer(small.layout, "rejects", "index", "index", {}).publish_table(
        tables.make_table(REJECTS, rejects), {"num_rejects": 1}
    )


def crop_columns(small: SmallStore, shard: int) -> dict[str, Any]:
    boxes = small.boxes[bounds(shard)].reshape(-1, 4)
    box = {name: boxes[:, i] for i, name in enumerate(("top", "left", "height", "width"))}
    return {**_key_columns(shard), **box, "flip": small.flips[bounds(shard)].ravel()}


def _write_crops(small: SmallStore, shard: int) -> Entry:
    first = bounds(shard).start
    own = small.table.slice(first, bounds(shard).stop)
    inputs = {"images": own.digest(first, "paths", "heights", "widths")}
    return writer(small.layout, "crops", part_name(shard), "sample", inputs).publish_table(
        tables.make_table(CROPS, crop_columns(small, shard)),
        {"num_images": len(own), "num_crops": NUM_CROPS},
        attributes={"num_crops": NUM_CROPS},
        rows_per_image=NUM_CROPS,
    )


def prediction_values(small: SmallStore, shard: int) -> dict[str, NDArray[Any]]:
    probs = small.probs[bounds(shard)]
    ids = np.arange(NUM_IMAGES, dtype=np.int32)[bounds(shard)]
    targets = small.table.class_ids[bounds(shard)]
    order = np.argsort(-probs, axis=-1, kind="stable").astype(class_dtype(NUM_CLASSES))
    order[np.isnan(probs[..., 0])] = reject_value(class_dtype(NUM_CLASSES))
    logp = np.log(probs).astype(np.float16)
    return {
        "image_id": ids,
        "topk_class": order,
        "logp": logp,
        "target_logp": logp[np.arange(len(ids)), :, targets],
    }


PREDICTION_SPECS = {
    "image_id": ArraySpec("int32"),
    "topk_class": ArraySpec("uint8", (NUM_CROPS, NUM_CLASSES), ("crop", "rank")),
    "logp": ArraySpec("float16", (NUM_CROPS, NUM_CLASSES), ("crop", "class")),
    "target_logp": ArraySpec("float16", (NUM_CROPS,), ("crop",)),
}


def open_writer(
    folder: Path, specs: dict[str, ArraySpec], num_images: int, attributes: dict[str, Any]
) -> ArrayWriter:
    return ArrayWriter(
        folder, specs, num_images=num_images, block_images=BLOCK, attributes=attributes
    )


def write_blocks(arrays: ArrayWriter, values: dict[str, NDArray[Any]]) -> str:
    """Write all blocks of ``values`` and return their rows digest."""
    digest = RowsDigest()
    for block in range(arrays.num_blocks):
        start, stop = arrays.bounds(block)
        part = {name: array[start:stop] for name, array in values.items()}
        arrays.write(block, part)
        digest.update(part)
    return digest.hexdigest()


def _write_predictions(small: SmallStore, shard: int, crops: Entry) -> Entry:
    own = small.table.slice(bounds(shard).start, bounds(shard).stop)
    inputs = {
        "images": own.digest(bounds(shard).start, "paths", "class_ids", "content_hashes"),
        "crops": crops.rows_digest,
        "teacher": "0" * 32,
        "device": "cpu",
    }
    params = {"teacher": {"name": "resnet18"}}
    part = writer(small.layout, "predictions", part_name(shard), "infer", inputs, params)
    attributes = {"num_crops": NUM_CROPS, "num_classes": NUM_CLASSES, "temperatures": [1.0]}
    values = prediction_values(small, shard)
    folder = small.layout.resumable("infer", part.key)
    arrays = open_writer(folder, PREDICTION_SPECS, len(own), part.metadata(attributes))
    digest = write_blocks(arrays, values)
    rejected = [i for i in values["image_id"] if i == REJECTED]
    rows = {
        "image_id": rejected,
        "path": [small.table.paths[i] for i in rejected],
        "reason": ["it is damaged" for _ in rejected],
    }
    beside = {f"_rejects-{shard:05d}": tables.make_table(INFER_REJECTS, rows)}
    numbers = {"num_rejected_images": len(rejected)}
    num_rows = len(own) * NUM_CROPS
    entry = part.publish_arrays(
        arrays.path, num_rows, digest, numbers, attributes=attributes, beside=beside
    )
    shelf.clear(folder)
    return entry


def _write_soft(small: SmallStore, shard: int, crops: Entry, predictions: Entry) -> Entry:
    inputs = {
        "crops": crops.rows_digest,
        "predictions": predictions.rows_digest,
        "targets": small.table.slice(bounds(shard).start, bounds(shard).stop).digest(
            bounds(shard).start, "class_ids"
        ),
    }
    part = writer(
        small.layout, "soft", part_name(shard), "compress", inputs, {"label": asdict(small.spec)}
    )
    attributes = {"num_crops": NUM_CROPS, "label": asdict(small.spec)}
    numbers = {"num_images": bounds(shard).stop - bounds(shard).start}
    if small.spec.kind == "full":
        return _publish_full(small, shard, part, attributes, numbers)
    rows, schema = soft_columns(small, shard)
    return part.publish_table(
        tables.make_table(schema, rows), numbers, attributes=attributes, rows_per_image=NUM_CROPS
    )


def soft_columns(small: SmallStore, shard: int) -> tuple[dict[str, Any], Any]:
    spec, flat = small.spec, small.probs[bounds(shard)].reshape(-1, NUM_CLASSES)
    targets = np.repeat(small.table.class_ids[bounds(shard)], NUM_CROPS)
    order = np.argsort(-flat, axis=1, kind="stable").astype(np.int32)
    order[np.isnan(flat[:, 0])] = -1
    ranked = -np.sort(-flat, axis=1)
    at_target = flat[np.arange(len(flat)), targets]
    labels = encode(spec, order, ranked, targets, at_target)
    schema = soft(
        spec.num_stored, has_max_prob=not spec.max_is_prob_0, has_outside_prob=spec.include_target
    )
    rows = {
        **_key_columns(shard),
        "target": targets,
        "target_prob": round_probability(at_target, spec.precision),
        "max_prob": round_probability(ranked[:, 0], spec.precision),
        "outside_prob": labels.target_prob,
        **{f"class_{k}": labels.class_ids[:, k] for k in range(spec.num_stored)},
        **{f"prob_{k}": labels.probs[:, k] for k in range(spec.num_stored)},
    }
    return rows, schema


def _publish_full(
    small: SmallStore, shard: int, part: PartWriter, attributes: Any, numbers: Any
) -> Entry:
    probs, targets = small.probs[bounds(shard)], small.table.class_ids[bounds(shard)]
    ids = np.arange(NUM_IMAGES, dtype=np.int32)[bounds(shard)]
    values = {
        "image_id": ids,
        "target": targets,
        "max_prob": round_probability(probs.max(axis=-1), "float16"),
        "target_prob": round_probability(probs[np.arange(len(ids)), :, targets], "float16"),
        "prob": encode_full(probs.reshape(-1, NUM_CLASSES)).reshape(probs.shape).astype("f2"),
    }
    specs = {
        "image_id": ArraySpec("int32"),
        "target": ArraySpec("int32"),
        "max_prob": ArraySpec("float32", (NUM_CROPS,), ("crop",)),
        "target_prob": ArraySpec("float32", (NUM_CROPS,), ("crop",)),
        "prob": ArraySpec("float16", (NUM_CROPS, NUM_CLASSES), ("crop", "class")),
    }
    folder = small.layout.resumable("compress", part.key)
    arrays = open_writer(folder, specs, len(ids), part.metadata(attributes))
    digest = write_blocks(arrays, values)
    entry = part.publish_arrays(
        arrays.path, len(ids) * NUM_CROPS, digest, numbers, attributes=attributes
    )
    shelf.clear(folder)
    return entry


def overlay_columns(actions: NDArray[np.uint8], shard: int) -> dict[str, Any]:
    flat = actions[bounds(shard)].ravel()
    weights = np.array([_WEIGHTS[Action(int(action))] for action in flat], np.float32)
    return {
        **_key_columns(shard),
        "action": flat,
        "teacher_weight": weights[:, 0],
        "target_weight": weights[:, 1],
    }


def _write_overlay(small: SmallStore, shard: int, labels: Entry) -> Entry:
    rows = tables.make_table(CALIBRATED, overlay_columns(small.actions, shard))
    inputs = {"soft": labels.rows_digest, "label": asdict(small.spec)}
    part = writer(small.layout, f"calibrated/{NAME}", part_name(shard), "calibrate", inputs)
    kinds, counts = np.unique(small.actions[bounds(shard)], return_counts=True)
    actions = {Action(int(k)).name.lower(): int(n) for k, n in zip(kinds, counts, strict=True)}
    return part.publish_table(
        rows, {"actions": actions, "restored_images": 0}, rows_per_image=NUM_CROPS
    )


def rewrite_table(layout: Layout, artifact: str, stem: str, table: pa.Table) -> None:
    """Put other rows into a table whose entry goes on saying the rest of what it said."""
    path = layout.table(artifact, stem)
    metadata = tables.read_metadata(pq.read_table(path, partitioning=None))
    tables.write_table(path, table, metadata)
    record_bytes(path)


def record_bytes(path: Path) -> None:
    """Let the entry of a changed file list the bytes that it has now."""
    entry = recorded.entry_beside(path)
    assert entry is not None
    files = {**entry.files, **entries.file_records(path.parent, [path])}
    entries.publish(
        Layout.beside(path.parents[len(Path(entry.artifact).parts)]), replace(entry, files=files)
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

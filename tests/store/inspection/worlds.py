"""What tests of the inspection share: labels of random predictions, stores of raw outputs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import entries, tables
from store.arrays import ArraySpec
from store.codecs import LabelSpec, encode
from store.inspection.label_rows import LabelRows
from store.inspection.statistics import statistics
from store.inspection.statistics_tables import Statistics
from store.layout import part_name
from store.schema import CALIBRATED
from tests.store import small_store
from tests.store.small_store import NUM_CLASSES, NUM_CROPS, SmallStore, build


class Watch:
    """A progress that adds up."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, label: str, total: int, unit: str) -> None:
        self.total = total

    def advance(self, amount: int = 1) -> None:
        self.done += amount


def stats(root: Path, *calibrations: str) -> Statistics:
    return statistics(root, calibrations, Watch())


def build_logits(root: Path, shift: float = 0.0) -> SmallStore:
    """A small store whose labels are raw outputs, here the logarithms of its probabilities."""
    store = build(root)
    spec = LabelSpec("logits", 1, NUM_CLASSES)
    attributes = {"num_crops": NUM_CROPS, "label": asdict(spec)}
    for entry in entries.list_entries(store.layout, "soft"):
        start, stop = (0, 4) if entry.stem == "part-00000" else (4, 8)
        inputs = entry.lineage["inputs"]
        part = small_store.writer(store.layout, "soft", entry.stem, "compress", inputs)
        values: dict[str, Any] = {
            "image_id": np.arange(start, stop, dtype=np.int32),
            "target": store.table.class_ids[start:stop],
            "logit": (np.log(store.probs[start:stop]) + shift).astype(np.float16),
        }
        specs = {
            "image_id": ArraySpec("int32"),
            "target": ArraySpec("int32"),
            "logit": ArraySpec("float16", (NUM_CROPS, NUM_CLASSES), ("crop", "output")),
        }
        folder = store.layout.resumable("compress", part.key)
        arrays = small_store.open_writer(folder, specs, 4, part.metadata(attributes))
        digest = small_store.write_blocks(arrays, values)
        part.publish_arrays(arrays.path, 16, digest, {}, attributes=attributes)
    return store


def publish_overlay(store: SmallStore, actions: NDArray[np.uint8], shard: int) -> None:
    """Another part of the store's calibration, with these actions (N, M)."""
    table = tables.make_table(CALIBRATED, small_store.overlay_columns(actions, shard))
    artifact, stem = f"calibrated/{small_store.NAME}", part_name(shard)
    small_store.publish_rows(store.layout, artifact, stem, "calibrate", {}, table)


def random_rows(spec: LabelSpec, seed: int, targets: NDArray[np.int32] | None = None) -> LabelRows:
    """Labels of random predictions for these targets, the third row rejected."""
    rng, num_rows = np.random.default_rng(seed), 12
    logits = 3 * rng.normal(size=(num_rows, spec.num_classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probs[2] = np.nan
    if targets is None:
        targets = rng.integers(0, spec.num_classes, num_rows).astype(np.int32)
    order = np.argsort(-probs, axis=1, kind="stable").astype(np.int32)
    order[2] = -1
    at_target = probs[np.arange(num_rows), targets]
    ids = np.arange(num_rows, dtype=np.int32)
    largest = probs.max(axis=1).astype(np.float32)
    if spec.kind == "full":
        values = probs.astype(np.float16)
        return LabelRows(spec, ids, targets, largest, at_target.astype(np.float32), None, values)
    sparse = encode(spec, order, -np.sort(-probs, axis=1), targets, at_target)
    return LabelRows(spec, ids, targets, largest, at_target.astype(np.float32), sparse, None)

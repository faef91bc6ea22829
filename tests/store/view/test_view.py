"""The training view: what it gathers is what the tables say, worked out here in another way.

Shapes: N images, M crops, C classes, B images of a batch, m crops an image of a batch.
"""

import mmap
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from numpy.typing import NDArray

from store.batch import LabelBatch
from store.codecs import KINDS, LabelSpec
from store.layout import part_name
from store.overlay import Action
from store.random import path_hashes
from store.tables import column, read_table
from store.view.build import plan_view
from store.view.reader import TrainingView
from tests.store.small_store import (
    ALL_DROPPED,
    NAME,
    NUM_CLASSES,
    NUM_CROPS,
    NUM_IMAGES,
    NUM_SHARDS,
    REJECTED,
    SPEC,
    SmallStore,
    bounds,
    build,
)

SPECS = [
    *[replace(SPEC, kind=kind) for kind in KINDS if kind != "logits"],
    replace(SPEC, precision="compact", k=3),
    replace(SPEC, include_target=True),
    replace(SPEC, kind="marginal_renorm", include_target=True),
    replace(SPEC, kind="smoothing", include_target=True, temperature=2.0),
    replace(SPEC, k=NUM_CLASSES),
]


def open_view(small: SmallStore, calibration: str | None = None) -> TrainingView:
    return plan_view(small.layout, NUM_SHARDS, small.root.parent / "data", calibration).open()


def dense_of_rows(spec: LabelSpec, row: Any) -> NDArray[np.float64]:
    """The label of one row of a soft table, (C,), by the formulas of the methods."""
    ids = [int(row[f"class_{k}"]) for k in range(spec.num_stored)]
    probs = [float(row[f"prob_{k}"]) for k in range(spec.num_stored)]
    if spec.include_target and not np.isnan(row["outside_prob"]):
        ids, probs = [*ids, int(row["target"])], [*probs, float(row["outside_prob"])]
    total, num_free = sum(probs), spec.num_classes - len(ids)
    if spec.kind in ("hard", "marginal_renorm") or not num_free:
        label = np.zeros(spec.num_classes)
        label[ids] = np.array(probs) / total
        return label
    label = np.full(spec.num_classes, max(0.0, 1 - total) / num_free)
    label[ids] = np.array(probs) / max(1.0, total)
    return label


def expected_labels(small: SmallStore, calibration: str | None) -> NDArray[np.float64]:
    """(N, M, C) from the files as pandas and plain zarr read them, NaN where there is none."""
    labels = np.full((NUM_IMAGES, NUM_CROPS, NUM_CLASSES), np.nan)
    for shard in range(NUM_SHARDS):
        if small.spec.kind == "full":
            group: Any = zarr.open_group(small.layout.arrays("soft", part_name(shard)), mode="r")
            stored = group["prob"][:].astype(float)
            labels[bounds(shard)] = stored / stored.sum(axis=-1, keepdims=True)
            continue
        for _, row in pd.read_parquet(small.layout.table("soft", part_name(shard))).iterrows():
            if not np.isnan(row["prob_0"]):
                place = int(row["image_id"]), int(row["crop"])
                labels[place] = dense_of_rows(small.spec, row)
    if calibration is None:
        return labels
    overlay = pd.read_parquet(small.layout.folder(f"calibrated/{calibration}"))
    shape = (NUM_IMAGES, NUM_CROPS, 1)
    a, b = (overlay[f"{n}_weight"].to_numpy(float).reshape(shape) for n in ("teacher", "target"))
    onehot = np.eye(NUM_CLASSES)[small.table.class_ids][:, None]
    calibrated: NDArray[np.float64] = a * labels + b * onehot + (1 - a - b) / NUM_CLASSES
    return calibrated


def dense_of_batch(batch: LabelBatch) -> NDArray[np.float64]:
    if batch.dense is not None:
        assert batch.class_ids.shape[-1] == batch.weights.shape[-1] == 0
        assert not batch.tail.any()
        return batch.dense.astype(float)
    dense = np.repeat(batch.tail.astype(float)[..., None], NUM_CLASSES, axis=-1)
    for place in np.ndindex(batch.class_ids.shape):
        dense[(*place[:2], batch.class_ids[place])] += batch.weights[place]
    return dense


@pytest.mark.parametrize("calibration", [None, NAME])
@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda s: f"{s.kind}-{s.k}-{s.precision}-{s.include_target}"
)
def test_gather_is_the_algebra_of_the_tables(
    tmp_path: Path, spec: LabelSpec, calibration: str | None
) -> None:
    small = build(tmp_path / "labels", spec)
    view = open_view(small, calibration)
    expected = expected_labels(small, calibration)
    missing = {REJECTED} if calibration is None else {REJECTED, ALL_DROPPED}
    assert set(view.image_ids) == set(range(NUM_IMAGES)) - missing
    rows = np.random.default_rng(0).permutation(view.num_images)
    crops = view.draw(rows, 0, NUM_CROPS, seed=3)
    batch = view.gather(rows, crops)
    ids = view.image_ids[rows]
    np.testing.assert_allclose(dense_of_batch(batch), expected[ids[:, None], crops], atol=2e-6)
    np.testing.assert_array_equal(batch.boxes, small.boxes[ids[:, None], crops])
    np.testing.assert_array_equal(batch.flips, small.flips[ids[:, None], crops])
    np.testing.assert_array_equal(batch.targets, small.table.class_ids[ids])
    arrays = (batch.boxes, batch.flips, batch.class_ids, batch.weights, batch.tail, batch.targets)
    assert [array.dtype.str for array in arrays] == ["<i4", "|b1", "<i8", "<f4", "<f4", "<i8"]


def test_view_describes_its_images(small: SmallStore) -> None:
    view = open_view(small)
    ids = np.delete(np.arange(NUM_IMAGES), REJECTED)
    assert (view.num_images, view.num_crops, view.num_classes) == (7, NUM_CROPS, NUM_CLASSES)
    np.testing.assert_array_equal(view.image_ids, ids)
    np.testing.assert_array_equal(view.targets, small.table.class_ids[ids])
    np.testing.assert_array_equal(view.heights, small.table.heights[ids])
    np.testing.assert_array_equal(view.widths, small.table.widths[ids])
    np.testing.assert_array_equal(view.hashes, path_hashes(small.table.paths[ids]))
    folder = small.root.parent / "data"
    rows = np.array([6, 0, 3])
    assert view.paths(rows) == [f"{folder}/{path}" for path in small.table.paths[ids[rows]]]
    assert (view.meta.label, view.meta.calibration) == (SPEC, None)
    arrays = (view.targets, view.hashes, view.image_ids, view.heights)
    assert [array.dtype.str for array in arrays] == ["<i8", "<u8", "<i4", "<i4"]


def test_dropped_crops_are_never_drawn_and_kept_ones_come_equally_often(small: SmallStore) -> None:
    view = open_view(small, NAME)
    rows = np.arange(view.num_images)
    kept = ~np.isin(small.actions[view.image_ids], [Action.DROP, Action.REJECT])
    np.testing.assert_array_equal(view.num_kept, kept.sum(axis=1))
    assert set(view.num_kept) == {3}
    # Three passes of m = 4 are 12 places: four whole permutations of three kept crops.
    drawn = np.concatenate([view.draw(rows, first, 4, seed=1) for first in (0, 4, 8)], axis=1)
    counts = np.stack([(drawn == crop).sum(axis=1) for crop in range(NUM_CROPS)], axis=1)
    np.testing.assert_array_equal(counts, np.where(kept, 4, 0))


def test_draws_are_without_replacement_and_depend_on_the_seed(small: SmallStore) -> None:
    view = open_view(small)
    rows = np.arange(view.num_images)
    for cycle in range(5):
        drawn = view.draw(rows, cycle * NUM_CROPS, NUM_CROPS, seed=2)
        np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(np.arange(4), (7, 1)))
    pieces = [view.draw(rows, first, m, seed=2) for first, m in ((0, 1), (1, 2), (3, 1))]
    np.testing.assert_array_equal(np.hstack(pieces), view.draw(rows, 0, 4, seed=2))
    assert (view.draw(rows, 0, 4, seed=2) != view.draw(rows, 0, 4, seed=3)).any()
    order = np.array([4, 1])
    np.testing.assert_array_equal(view.draw(order, 0, 4, 2), view.draw(rows, 0, 4, 2)[order])
    many = view.draw(rows, 0, 10, seed=2)  # fewer crops than places: they repeat
    np.testing.assert_array_equal(np.sort(many[:, :4], axis=1), np.tile(np.arange(4), (7, 1)))


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, kind="full")])
def test_pickle_carries_the_folder_and_no_data(tmp_path: Path, spec: LabelSpec) -> None:
    view = open_view(build(tmp_path / "labels", spec), NAME)
    data = pickle.dumps(view)
    assert len(data) < 500
    again = pickle.loads(data)
    rows, crops = np.arange(3), np.zeros((3, 2), np.int64)
    one, other = dense_of_batch(view.gather(rows, crops)), dense_of_batch(again.gather(rows, crops))
    np.testing.assert_array_equal(one, other)
    assert is_mapped(again._records)


def is_mapped(array: Any) -> bool:
    """Whether an array is a view of a file."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array is not None


def test_nothing_that_grows_with_the_store_is_in_private_memory(small: SmallStore) -> None:
    view = open_view(small, NAME)
    arrays = {name: value for name, value in vars(view).items() if isinstance(value, np.ndarray)}
    values = {"_prob_values", "_wide_prob_values", "_teacher_weights", "_target_weights"}
    assert {name for name, array in arrays.items() if not is_mapped(array)} == values
    assert is_mapped(view._path_bytes.obj)


def test_view_of_the_tables_has_their_weights(small: SmallStore) -> None:
    view = open_view(small, NAME)
    table = read_table(small.layout.table(f"calibrated/{NAME}", "part-00000"))
    weights = column(table, "target_weight").reshape(-1, NUM_CROPS)
    first = view.gather(np.array([0]), np.array([[0, 1, 2]]))
    np.testing.assert_allclose(first.weights[0, :, -1], weights[0, :3])
    assert (first.class_ids[0, :, -1] == view.targets[0]).all()

"""Records of the training view: exactly what the tables say, in every width that they can take.

Shapes: N images, M crops, K stored classes, C classes.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from store.batch import LabelBatch
from store.codecs import LabelSpec, SparseLabels, to_entries
from store.dense_codecs import decode_full
from store.errors import DataError
from store.layout import Layout
from store.overlay import combine, combine_dense
from store.soft_part import SoftPart
from store.view import rows as view_rows
from store.view.build import plan_view
from store.view.meta import ViewMeta
from store.view.reader import TrainingView
from store.view.record import BoxType, RecordLayout, record_dtype
from tests.store.view.view_store import (
    NAME,
    NUM_IMAGES,
    NUM_SHARDS,
    Content,
    build,
    given_in,
    open_view,
    random_content,
)

MS = LabelSpec("marginal_smoothing", 3, 9)
WIDE = LabelSpec("marginal_smoothing", 3, 70_000)
FULL = LabelSpec("full", 1, 6)
LOGITS = LabelSpec("logits", 1, 6, normalize="l2")
SPARSE = [
    MS,
    replace(MS, precision="compact"),
    replace(MS, k=1, include_target=True),
    replace(MS, k=9),
    replace(MS, k=8, precision="compact", include_target=True),
    replace(MS, kind="marginal_renorm", precision="compact"),
    replace(MS, kind="marginal_renorm", include_target=True),
    replace(MS, kind="hard"),
    replace(MS, kind="smoothing", precision="compact", include_target=True),
    WIDE,
]
BOXES: dict[BoxType, tuple[int, int]] = {
    "uint16": (0, 65_535),
    "int16": (-4, 32_767),
    "int32": (-4, 32_768),
}


def some_weights(number: int, seed: int = 0, num_crops: int = 5) -> NDArray[np.float32]:
    """(N, M, 2) of about ``number`` distinct pairs, of which some stand for dropped crops."""
    rng, shape = np.random.default_rng(seed), (NUM_IMAGES, num_crops)
    a = rng.random(number)
    pairs = np.stack([a, (1 - a) * rng.random(number)], axis=1).astype(np.float32)
    pairs[0] = 1, 0
    weights = pairs[rng.integers(0, number, shape)]
    weights[rng.random(shape) < 0.3] = np.nan
    weights[:, 0] = 1, 0  # so that every image keeps a crop
    return weights


def everything(view: TrainingView) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and crops of all that a view holds, in a shuffled order of images."""
    rows = np.random.default_rng(0).permutation(view.num_images)
    return rows, np.tile(np.arange(view.num_crops), (len(rows), 1))


def check_fetch(layout: Layout, content: Content, calibration: str | None = None) -> TrainingView:
    """Compare all that a view fetches with the tables as pandas reads them."""
    view = open_view(layout, calibration)
    rows, crops = everything(view)
    fetched = view.fetch(rows, crops)
    ids = view.image_ids[rows]

    def column(folder: str, name: str) -> NDArray[np.generic]:
        values = pd.read_parquet(layout.folder(folder), columns=[name])[name].to_numpy()
        return values.reshape(NUM_IMAGES, -1)[ids]

    for place, name in enumerate(("top", "left", "height", "width")):
        np.testing.assert_array_equal(fetched.boxes[..., place], column("crops", name))
    np.testing.assert_array_equal(fetched.flips, column("crops", "flip"))
    if content.spec.is_dense:
        assert fetched.class_ids.shape[-1] == fetched.probs.shape[-1] == 0
        np.testing.assert_array_equal(fetched.dense, given_in(content.dense)[ids])
        return view
    for place in range(content.spec.num_stored):
        np.testing.assert_array_equal(
            fetched.class_ids[..., place], column("soft", f"class_{place}")
        )
        np.testing.assert_array_equal(fetched.probs[..., place], column("soft", f"prob_{place}"))
    if content.spec.include_target:
        np.testing.assert_array_equal(fetched.outside_probs, column("soft", "outside_prob"))
    else:
        assert fetched.outside_probs is None
    arrays = fetched.boxes, fetched.flips, fetched.class_ids, fetched.probs
    assert [array.dtype.str for array in arrays] == ["<i4", "|b1", "<i4", "<f4"]
    return view


@given(
    spec=st.sampled_from([*SPARSE, FULL, LOGITS]),
    box=st.sampled_from(sorted(BOXES)),
    pairs=st.sampled_from([0, 2, 255]),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_fetch_is_what_the_tables_say(spec: LabelSpec, box: BoxType, pairs: int, seed: int) -> None:
    weights = some_weights(pairs, seed) if pairs and spec.kind != "logits" else None
    content = random_content(spec, seed, boxes=BOXES[box], weights=weights)
    with tempfile.TemporaryDirectory() as folder:
        layout = build(Path(folder) / "labels", content)
        view = check_fetch(layout, content, None if weights is None else NAME)
        assert view.meta.record == RecordLayout(
            box, "uint16", "none" if weights is None else "uint8"
        )


@pytest.mark.parametrize(("spec", "stride"), [(replace(MS, k=5), 30), (WIDE, 28), (FULL, 10)])
def test_records_are_small_and_described(tmp_path: Path, spec: LabelSpec, stride: int) -> None:
    for layout in (RecordLayout(), RecordLayout(weights="uint8")):
        dtype = record_dtype(spec, layout)
        assert dtype.itemsize == stride
        raw = ViewMeta("", "", 1, 1, spec.num_classes, spec, None, 1, False, layout).to_json()
        described = json.loads(json.dumps(raw["fields"]))
        fields = described["fields"]
        again = np.dtype(
            {
                "names": list(fields),
                "formats": [(f["type"], tuple(f["shape"])) for f in fields.values()],
                "offsets": [f["offset"] for f in fields.values()],
                "itemsize": described["stride"],
            }
        )
        assert again == dtype
        assert all(f["type"][0] in "<|" for f in fields.values())


@pytest.mark.parametrize("spec", SPARSE, ids=lambda s: f"{s.kind}-{s.k}-{s.precision}")
@pytest.mark.parametrize("pairs", [2, 4000])
def test_wide_records_hold_the_same(
    tmp_path: Path, spec: LabelSpec, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More distinct values than codes: probabilities and weights stand in the record."""
    weights = some_weights(pairs, num_crops=60)
    content = random_content(spec, num_crops=60, weights=weights)
    layout = build(tmp_path / "labels", content)
    narrow = open_view(layout, NAME)
    monkeypatch.setattr(view_rows, "NUM_PROB_CODES", 1)
    layout = Layout(layout.root, tmp_path / "other")
    wide = check_fetch(layout, content, NAME)
    kinds = "uint16" if spec.kind == "hard" else "float32", "uint8" if pairs == 2 else "float32"
    assert (wide.meta.record.prob, wide.meta.record.weights) == kinds
    assert narrow.meta.record.prob == "uint16"
    assert_same(wide.gather(*everything(wide)), narrow.gather(*everything(narrow)))


def assert_same(one: LabelBatch, other: LabelBatch) -> None:
    for name in ("boxes", "flips", "class_ids", "weights", "tail", "targets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


def reference(
    content: Content, ids: NDArray[np.integer], calibrated: bool
) -> tuple[NDArray[np.integer], NDArray[np.float32], NDArray[np.float32]]:
    """Class ids, weights and tail of images ``ids`` by the plain functions of the codecs."""
    m, stored = content.num_crops, content.labels
    assert stored is not None
    rows = (ids[:, None] * m + np.arange(m)).reshape(-1)
    outside = None if stored.target_prob is None else stored.target_prob[rows]
    target = np.repeat(content.targets[ids], m)
    found = to_entries(
        content.spec, SparseLabels(stored.class_ids[rows], stored.probs[rows], outside), target
    )
    if not calibrated:
        return found
    assert content.weights is not None
    a, b = content.weights[ids].reshape(-1, 2).T
    return combine(*found, target, a, b, content.spec.num_classes)


@given(
    spec=st.sampled_from([*SPARSE, replace(MS, k=40, num_classes=99)]),
    calibrated=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_gather_is_bit_identical_to_the_codecs(
    spec: LabelSpec, calibrated: bool, seed: int
) -> None:
    content = random_content(spec, seed, weights=some_weights(9, seed) if calibrated else None)
    with tempfile.TemporaryDirectory() as folder:
        view = open_view(build(Path(folder) / "labels", content), NAME if calibrated else None)
        rows, crops = everything(view)
        batch = view.gather(rows, crops)
        class_ids, weights, tail = reference(content, view.image_ids[rows], calibrated)
        np.testing.assert_array_equal(batch.class_ids.reshape(class_ids.shape), class_ids)
        np.testing.assert_array_equal(batch.weights.reshape(weights.shape), weights)
        np.testing.assert_array_equal(batch.tail.reshape(-1), tail)
        assert batch.weights.flags.c_contiguous and batch.class_ids.flags.c_contiguous


@pytest.mark.parametrize("calibrated", [False, True])
def test_dense_gather_is_bit_identical_to_the_codecs(tmp_path: Path, calibrated: bool) -> None:
    weights = some_weights(9, num_crops=40) if calibrated else None  # several blocks of decoding
    content = random_content(FULL, num_crops=40, weights=weights)
    view = open_view(build(tmp_path / "labels", content), NAME if calibrated else None)
    rows, crops = everything(view)
    expected = decode_full(given_in(content.dense)[view.image_ids[rows]].reshape(-1, 6))
    if calibrated:
        a, b = given_in(weights)[view.image_ids[rows]].reshape(-1, 2).T
        target = np.repeat(content.targets[view.image_ids[rows]], 40)
        expected = combine_dense(expected, target, a, b)
    found = given_in(view.gather(rows, crops).dense)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.reshape(-1, 6), expected.astype(np.float32))


@pytest.mark.parametrize("spec", [*SPARSE, FULL], ids=lambda s: f"{s.kind}-{s.k}-{s.precision}")
def test_keeping_everything_is_no_calibration(tmp_path: Path, spec: LabelSpec) -> None:
    keep = np.tile(np.array([1, 0], np.float32), (NUM_IMAGES, 5, 1))
    content = random_content(spec, weights=keep)
    layout = build(tmp_path / "labels", content)
    plain, kept = open_view(layout), open_view(layout, NAME)
    one, other = plain.gather(*everything(plain)), kept.gather(*everything(kept))
    assert not kept.meta.has_losses
    if spec.is_dense:
        np.testing.assert_array_equal(one.dense, other.dense)
        return
    assert not other.weights[..., -1].any()
    cut = replace(other, class_ids=other.class_ids[..., :-1], weights=other.weights[..., :-1])
    assert_same(one, cut)


@given(num_crops=st.sampled_from([3, 8, 300]), seed=st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_drawing_visits_each_kept_crop_once_and_no_other(num_crops: int, seed: int) -> None:
    weights = some_weights(9, seed, num_crops)
    weights[seed % NUM_IMAGES] = np.nan  # an image that is left out
    content = random_content(MS, seed, num_crops=num_crops, weights=weights)
    with tempfile.TemporaryDirectory() as folder:
        view = open_view(build(Path(folder) / "labels", content), NAME)
        assert view.num_images == NUM_IMAGES - 1
        rows = np.arange(view.num_images)
        kept = ~np.isnan(weights[view.image_ids, :, 0])
        np.testing.assert_array_equal(view.num_kept, kept.sum(axis=1))
        for row in rows:
            number = int(view.num_kept[row])
            for cycle in range(2):
                drawn = view.draw(rows[row : row + 1], cycle * number, number, seed)[0]
                np.testing.assert_array_equal(np.sort(drawn), np.flatnonzero(kept[row]))
        many = np.hstack([view.draw(rows, 7 * number, 7, seed) for number in range(5)])
        assert kept[rows[:, None], many].all()
        assert np.isfinite(view.gather(rows, many).weights).all()


def test_logits_are_served_raw(tmp_path: Path) -> None:
    content = random_content(LOGITS)
    layout = build(tmp_path / "labels", content)
    view = open_view(layout)
    rows, crops = everything(view)
    batch = view.gather(rows, crops)
    dense = given_in(batch.dense)
    assert (view.num_classes, dense.dtype.str) == (6, "<f4")
    np.testing.assert_array_equal(dense, given_in(content.dense)[view.image_ids[rows]])
    np.testing.assert_allclose(np.linalg.norm(dense, axis=-1), 1, atol=1e-3)
    assert batch.class_ids.shape[-1] == batch.weights.shape[-1] == 0


def test_rejected_logits_are_left_out(tmp_path: Path) -> None:
    content = random_content(LOGITS)
    given_in(content.dense)[4] = np.nan
    view = open_view(build(tmp_path / "labels", content))
    assert view.image_ids.tolist() == [0, 1, 2, 3, 5, 6]
    rows, crops = everything(view)
    np.testing.assert_array_equal(
        view.fetch(rows, crops).dense, given_in(content.dense)[view.image_ids[rows]]
    )


def test_logits_have_no_calibration(tmp_path: Path) -> None:
    content = random_content(LOGITS, weights=some_weights(2))
    layout = build(tmp_path / "labels", content)
    with pytest.raises(DataError, match="kind logits, for which calibration 'own' is not defined"):
        open_view(layout, NAME)
    part = SoftPart(layout, plan_view(layout, NUM_SHARDS, Path("data")).parts[0].soft)
    for read in (part.scalars, part.max_prob):
        with pytest.raises(DataError, match="calibration is not defined for them"):
            read()
    blocks = [(start, stop, values.dtype.str) for start, stop, values in part.dense_blocks()]
    assert blocks == [(0, 2, "<f2"), (2, 3, "<f2")]


def test_class_beyond_the_last_is_refused(tmp_path: Path) -> None:
    content = random_content(MS)
    given_in(content.labels).class_ids[11, 2] = 9
    with pytest.raises(DataError, match=r"part-00000\.parquet holds class 9 of 9; run"):
        open_view(build(tmp_path / "labels", content))


def test_shards_that_need_wider_records_than_the_first(tmp_path: Path) -> None:
    content = random_content(MS, boxes=(0, 500))
    content.boxes[-1, -1, 0] = -1
    content.boxes[-2, 0, 3] = 40_000
    view = check_fetch(build(tmp_path / "labels", content), content)
    assert view.meta.record.box == "int32"

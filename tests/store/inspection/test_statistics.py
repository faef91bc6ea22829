from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import scan
from store.codecs import Kind, LabelSpec, to_dense
from store.inspection.statistics import statistics
from store.inspection.statistics_sums import RANGE_EDGES, group_of, range_of
from store.inspection.statistics_tables import Statistics
from store.overlay import Action
from store.precision import Precision, round_probability
from tests.store import small_store
from tests.store.inspection.worlds import Watch, build_logits, random_rows, stats
from tests.store.small_store import (
    NAME,
    NUM_CLASSES,
    NUM_CROPS,
    NUM_IMAGES,
    REJECTED,
    SmallStore,
    build,
)

PRECISIONS: list[Precision] = ["float16", "compact"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("place", range(12))
def test_a_maximum_on_an_edge_is_in_the_range_above_it(precision: Precision, place: int) -> None:
    edge = RANGE_EDGES[place]
    stored = round_probability(edge, precision)
    assert range_of(np.array([stored, edge], np.float32), precision).tolist() == [place, place]


def test_float32_decides_not_float64() -> None:
    largest = np.float32(0.95)  # less than the float64 of that name
    below = np.nextafter(largest, np.float32(0))
    assert range_of(np.array([below, largest, 1.0], np.float32), "float16").tolist() == [10, 11, 11]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_groups_close_as_the_paper_writes_them(precision: Precision) -> None:
    on_edge = round_probability(np.array([0.0, 0.05, 0.3, 0.95, 1.0]), precision)
    assert group_of(on_edge, precision).tolist() == [0, 1, 1, 3, 3]
    inside = round_probability(np.array([0.02, 0.2, 0.6, 0.99]), precision)
    assert group_of(inside, precision).tolist() == [0, 1, 2, 3]


def test_figures_are_those_of_the_labels(small: SmallStore) -> None:
    found = stats(small.root, NAME)
    usable = np.arange(NUM_IMAGES) != REJECTED
    probs = small.probs[usable].reshape(-1, NUM_CLASSES)
    targets = np.repeat(small.table.class_ids[usable], NUM_CROPS)
    largest = round_probability(probs.max(axis=1), "float16")
    at_target = round_probability(probs[np.arange(len(probs)), targets], "float16")
    right = probs.argmax(axis=1) == targets

    assert (found.num_images, found.num_crops, found.num_rejected) == (8, 32, NUM_CROPS)
    assert [each.num_crops for each in found.ranges] == np.histogram(largest, RANGE_EDGES)[
        0
    ].tolist()
    assert found.ranges[-1].aggregated == 1
    assert sum(each.share for each in found.ranges) == pytest.approx(1)
    everything, *groups = found.teacher
    assert everything.accuracy == pytest.approx(right.mean())
    assert everything.mean_max_prob == pytest.approx(largest.mean())
    assert everything.mean_target_prob == pytest.approx(at_target.mean())
    assert sum(group.num_crops for group in groups) == everything.num_crops == len(probs)
    for each in found.classes:
        mine = targets == each.class_id
        assert each.num_crops == mine.sum()
        assert each.accuracy == pytest.approx(right[mine].mean())
        assert each.mean_target_prob == pytest.approx(at_target[mine].mean())
        of_class = small.table.class_ids == each.class_id
        none = ~right.reshape(-1, NUM_CROPS).any(axis=1) & of_class[usable]
        assert each.num_images == of_class.sum()
        assert each.share_no_crop_right == pytest.approx(none.sum() / of_class.sum())


def test_shares_of_actions(small: SmallStore) -> None:
    found = stats(small.root, NAME)
    counted = small.actions != Action.REJECT
    for each in found.calibrations[NAME]:
        taken = small.actions == Action[each.action.upper()]
        assert each.num_crops == taken.sum()
        assert (each.images_any, each.images_all) == (
            taken.any(axis=1).sum(),
            taken.all(axis=1).sum(),
        )
        share = None if each.action == "reject" else pytest.approx(taken.sum() / counted.sum())
        assert each.share == share
    for each_class in found.classes:
        mine = (small.table.class_ids == each_class.class_id)[:, None] & counted
        dropped = (small.actions == Action.DROP) & mine
        assert each_class.actions[NAME]["drop"] == pytest.approx(dropped.sum() / mine.sum())


def plain(found: Statistics) -> Any:
    value = asdict(found)
    return {name: value[name] for name in ("ranges", "teacher", "classes", "calibrations")}


def nearly(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return set(a) == set(b) and all(nearly(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(nearly, a, b))
    return bool(a == pytest.approx(b, rel=1e-12) if isinstance(a, float) else a == b)


@pytest.mark.parametrize("num_shards", [1, 3, 5, 8])
def test_how_a_store_is_cut_changes_no_figure(
    num_shards: int, small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_store, "NUM_SHARDS", num_shards)
    other = stats(build(tmp_path / "labels").root, NAME)
    assert other.num_shards == num_shards
    assert nearly(plain(stats(small.root, NAME)), plain(other))


@pytest.mark.parametrize("kind", ["marginal_smoothing", "full"])
@pytest.mark.parametrize("rows", [1, 5, 8, 13])
def test_blocks_of_any_size_give_the_same(
    rows: int, kind: Kind, small: SmallStore, full: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small.root if kind == "marginal_smoothing" else full.root
    whole = stats(root, NAME)
    monkeypatch.setattr(scan, "BLOCK_ROWS", rows)
    assert nearly(plain(stats(root, NAME)), plain(whole))


def test_kind_full_has_the_same_teacher(small: SmallStore, full: SmallStore) -> None:
    sparse, dense = stats(small.root), stats(full.root)
    assert [each.num_crops for each in sparse.ranges] == [each.num_crops for each in dense.ranges]
    assert sparse.teacher[0].accuracy == dense.teacher[0].accuracy
    probs = small.probs[np.arange(NUM_IMAGES) != REJECTED]
    entropy = -(probs * np.log(probs)).sum(axis=-1).mean()
    assert dense.teacher[0].mean_entropy == pytest.approx(entropy, rel=1e-3)
    sizes = {(each.artifact, each.column) for each in dense.columns}
    assert {("soft", "prob"), ("soft", "max_prob"), ("crops", "top")} <= sizes


def test_kind_logits_says_what_is_not_defined(tmp_path: Path) -> None:
    found = stats(build_logits(tmp_path / "labels").root)
    assert (found.num_crops, found.num_rejected) == (NUM_IMAGES * NUM_CROPS, NUM_CROPS)
    assert found.ranges == [] and found.teacher == []
    assert "no maximum probability" in found.undefined[0]
    assert sum(each.num_crops for each in found.classes) == (NUM_IMAGES - 1) * NUM_CROPS
    assert {each.accuracy for each in found.classes} == {None}
    assert found.reference_bytes_per_crop == (5 + NUM_CLASSES) * 4


def test_the_progress_ends_at_its_total(small: SmallStore) -> None:
    watch = Watch()
    statistics(small.root, [], watch)
    assert watch.done == watch.total == NUM_IMAGES * NUM_CROPS


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["hard", "smoothing", "marginal_smoothing", "marginal_renorm"]),
    num_classes=st.integers(1, 9),
    k=st.integers(1, 9),
    precision=st.sampled_from(PRECISIONS),
    with_target=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_entropy_is_that_of_the_dense_label(
    kind: Kind, num_classes: int, k: int, precision: Precision, with_target: bool, seed: int
) -> None:
    include = with_target and kind != "hard"
    spec = LabelSpec(kind, k, num_classes, precision, include_target=include)
    rows = random_rows(spec, seed)
    dense = to_dense(spec, rows.sparse, rows.targets) if rows.sparse else rows.dense()
    expected = 0.0 - np.where(dense > 0, dense * np.log(np.where(dense > 0, dense, 1)), 0).sum(
        axis=1
    )
    expected[2] = np.nan
    np.testing.assert_allclose(rows.entropy(), expected, atol=1e-5)
    assert not np.signbit(rows.entropy()[[0, 1]]).any()

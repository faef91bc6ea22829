from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import recorded, scan, tables
from store.codecs import Kind, LabelSpec
from store.errors import DataError
from store.inspection.label_difference import total_variation
from store.inspection.row_difference import ImagesDifference, RowsDifference, compare_rows
from store.overlay import Action
from store.schema import CROPS
from tests.store import small_store
from tests.store.inspection.worlds import Watch, build_logits, publish_overlay, random_rows
from tests.store.small_store import (
    NAME,
    NUM_CROPS,
    NUM_IMAGES,
    SmallStore,
    build,
    crop_columns,
    publish_rows,
)


def rows(a: SmallStore, b: SmallStore) -> RowsDifference:
    return compare_rows(a.root, b.root, Watch())


def test_rows_of_equal_stores(small: SmallStore, own: SmallStore) -> None:
    found = rows(small, own)
    assert found.notes == []
    assert found.crops is not None and found.labels is not None
    assert (found.crops.num_crops, found.crops.other_box, found.crops.other_flip) == (32, 0, 0)
    assert (found.labels.other_label, found.labels.max_variation) == (0, 0.0)
    assert found.calibrations[NAME]["keep -> keep"] == (small.actions == Action.KEEP).sum()


def test_boxes_and_flips_that_differ_are_counted(small: SmallStore, own: SmallStore) -> None:
    columns = crop_columns(own, 1)
    columns["top"] = columns["top"].copy()
    columns["top"][[1, 5]] += 1
    columns["left"] = columns["left"].copy()
    columns["left"][5] += 1  # of the same crop: counted once
    columns["flip"] = ~columns["flip"]
    table = tables.make_table(CROPS, columns)
    publish_rows(own.layout, "crops", "part-00001", "sample", {}, table)
    found = rows(small, own).crops
    assert found is not None
    assert (found.num_crops, found.other_box, found.other_flip) == (32, 2, 16)


def test_every_change_of_action_is_in_the_table(small: SmallStore, own: SmallStore) -> None:
    actions = small.actions.copy()
    actions[0] = [Action.DROP, Action.TRUTH, Action.REVISE, Action.DROP]
    publish_overlay(own, np.where(actions == Action.TRUTH, Action.SOFTEN, actions), 0)
    found = rows(small, own).calibrations[NAME]
    expected: dict[str, int] = {}
    new = np.where(actions == Action.TRUTH, Action.SOFTEN, actions)
    for before, after in zip(small.actions.ravel(), new.ravel(), strict=True):
        name = f"{Action(int(before)).name.lower()} -> {Action(int(after)).name.lower()}"
        expected[name] = expected.get(name, 0) + 1
    assert found == expected
    assert found["keep -> drop"] == 1


@pytest.mark.parametrize("rows_at_once", [1, 7, 10_000])
def test_labels_that_differ(
    rows_at_once: int, small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "BLOCK_ROWS", rows_at_once)
    other = build(tmp_path / "labels", seed=1)
    found = rows(small, other).labels
    assert found is not None and found.mean_variation is not None
    first, second = (
        np.where(np.isnan(store.probs[..., 0]), -1, store.probs.argmax(axis=-1))
        for store in (small, other)
    )
    assert found.other_class == (first != second).sum()
    assert found.other_label == (NUM_IMAGES - 1) * NUM_CROPS
    assert found.rejected_in_one == 0
    assert 0.1 < found.mean_variation < found.max_variation <= 1  # type: ignore[operator]


def test_sparse_labels_against_full_ones(small: SmallStore, full: SmallStore) -> None:
    found = rows(small, full).labels
    assert found is not None and found.mean_variation is not None
    assert found.other_class == 0
    probs = small.probs[~np.isnan(small.probs[..., 0])]
    ranked = np.sort(probs, axis=-1)
    rest = ranked[:, :3]
    expected = np.abs(rest - rest.mean(axis=1, keepdims=True)).sum(axis=1) / 2
    assert found.mean_variation == pytest.approx(expected.mean(), abs=2e-3)


def test_logits_are_compared_by_value(small: SmallStore, tmp_path: Path) -> None:
    one, other = (build_logits(tmp_path / name / "labels", shift) for name, shift in NAMED)
    found = rows(one, other).labels
    assert found is not None
    assert (found.num_crops, found.other_label, found.other_class) == (32, 28, 0)
    assert found.mean_variation is None and found.max_variation is None
    assert rows(one, small).labels == replace(found, other_label=28)
    assert rows(one, one).labels == replace(found, other_label=0)


NAMED = (("one", 0.0), ("other", 0.25))


def test_a_crop_rejected_in_one_store_only(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_store, "REJECTED", 6)
    found = rows(small, build(tmp_path / "labels")).labels
    assert found is not None
    assert found.rejected_in_one == 2 * NUM_CROPS
    assert found.other_label >= 2 * NUM_CROPS


def test_other_images_are_not_compared_by_place(small: SmallStore, tmp_path: Path) -> None:
    other = build(tmp_path / "labels")
    paths = list(other.table.paths)
    paths[0] = "klasse 0/another.jpg"
    publish_images(other, path=paths)
    found = rows(small, other)
    assert found.images is not None and found.labels is None and found.crops is None
    assert (found.images.only_a, found.images.only_b) == (1, 1)
    assert "other images" in found.notes[0]


def publish_images(store: SmallStore, classes: tuple[str, ...] = (), **columns: Any) -> None:
    """Images with other columns, or other names of classes."""
    layout = store.layout
    table = tables.read_table(layout.table("images", "images"))
    named = tables.read_table(layout.table("images", "classes"))
    if classes:
        named = named.set_column(1, "name", pa.array(classes))
    values = {**tables.columns(table), **columns}
    small_store.writer(layout, "images", "images", "index", {}).publish_table(
        tables.make_table(table.schema, values), {}, beside={"classes": named}
    )


def test_images_are_matched_by_path(small: SmallStore, tmp_path: Path) -> None:
    other = build(tmp_path / "labels")
    hashes, ids = list(other.table.content_hashes), other.table.class_ids.copy()
    hashes[3], ids[[2, 4]] = "f" * 32, (ids[[2, 4]] + 1) % 5
    publish_images(other, content_hash=hashes, class_id=ids)
    assert rows(small, other).images == ImagesDifference(0, 0, 1, 2)
    paths = [f"a{path}" for path in other.table.paths]  # places move, names stay
    paths[1:] = other.table.paths[:-1]
    publish_images(other, content_hash=["0" * 32, *other.table.content_hashes[:-1]], path=paths)
    found = rows(small, other).images
    assert found is not None
    assert (found.only_a, found.only_b, found.other_content) == (1, 1, 0)


def test_classes_are_compared_by_name(small: SmallStore, own: SmallStore) -> None:
    """Ids stay the same where a class is renamed; the digest of the rows does too."""
    renamed = ("klasse 0", "another", *small.table.class_names[2:])
    publish_images(own, renamed)
    found = rows(small, own).images
    assert found == ImagesDifference(0, 0, 0, int((small.table.class_ids == 1).sum()))
    # The same names in another order, and ids that follow them.
    publish_images(own, small.table.class_names[::-1], class_id=4 - small.table.class_ids)
    assert rows(small, own).images == ImagesDifference(0, 0, 0, 0)


def test_equal_images_and_actions_are_not_read(
    small: SmallStore, own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = rows(small, own)
    opened: list[str] = []
    read = recorded.check_named

    def check(entry: Any, folder: Path, name: str) -> None:
        opened.append(name)
        read(entry, folder, name)

    monkeypatch.setattr(recorded, "check_named", check)
    assert rows(small, own) == wanted
    assert opened == ["classes.parquet"] * 2


@pytest.mark.parametrize("artifact", ["crops", "soft", f"calibrated/{NAME}"])
def test_rows_of_an_incomplete_store_are_refused(
    artifact: str, small: SmallStore, own: SmallStore
) -> None:
    own.layout.entry(artifact, "part-00001").unlink()
    for a, b in ((small, own), (own, small), (own, own)):
        with pytest.raises(DataError, match=r"shard 1 of 2 is missing.*stage \w+.*` first"):
            rows(a, b)


def test_other_shards_are_not_compared_by_name(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_store, "NUM_SHARDS", 4)
    found = rows(small, build(tmp_path / "labels"))
    assert found.labels is None and found.crops is None and not found.calibrations
    assert "2 parts in A, 4 in B" in found.notes[0]


KINDS: list[Kind] = ["hard", "smoothing", "marginal_smoothing", "marginal_renorm", "full"]


@settings(deadline=None, max_examples=80)
@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    ks=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    with_target=st.tuples(st.booleans(), st.booleans()),
    num_classes=st.integers(1, 7),
    seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)),
)
def test_total_variation_is_that_of_the_dense_labels(
    kinds: tuple[Kind, Kind],
    ks: tuple[int, int],
    with_target: tuple[bool, bool],
    num_classes: int,
    seeds: tuple[int, int],
) -> None:
    specs = [
        LabelSpec(kind, k, num_classes, include_target=kept and kind not in ("hard", "full"))
        for kind, k, kept in zip(kinds, ks, with_target, strict=True)
    ]
    targets = np.random.default_rng(seeds[0]).integers(0, num_classes, 12).astype(np.int32)
    a, b = (random_rows(spec, seed, targets) for spec, seed in zip(specs, seeds, strict=True))
    usable = np.arange(len(a.targets)) != 2
    expected = np.abs(a.dense() - b.dense()).sum(axis=1) / 2
    np.testing.assert_allclose(total_variation(a, b)[usable], expected[usable], atol=1e-6)

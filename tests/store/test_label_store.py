"""The store for notebooks, and what `info` says of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

import store
from store import entries, info, tables
from store.codecs import LabelSpec
from store.errors import DataError, ParamsError
from store.label_store import LabelStore
from store.layout import Layout, calibrated
from store.schema import CROPS
from tests.store.small_store import (
    NAME,
    NUM_CLASSES,
    NUM_CROPS,
    NUM_IMAGES,
    REJECTED,
    SPEC,
    SmallStore,
    bounds,
    build,
    crop_columns,
    soft_columns,
)

SHARD = 1
NUM_ROWS = NUM_IMAGES * NUM_CROPS


def test_public_names_load_when_they_are_asked_for() -> None:
    assert store.LabelStore is LabelStore
    assert store.TrainingView.__name__ == "TrainingView"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        store.Nothing  # noqa: B018


def test_tables_of_a_shard(small: SmallStore) -> None:
    opened = LabelStore(str(small.root))
    assert opened.crops(SHARD)["top"].tolist() == crop_columns(small, SHARD)["top"].tolist()
    soft = opened.soft(SHARD)
    assert soft["class_0"].tolist() == soft_columns(small, SHARD)[0]["class_0"].tolist()
    overlay = opened.calibration(NAME, SHARD)
    assert overlay["action"].tolist() == small.actions[bounds(SHARD)].ravel().tolist()
    assert opened.images().paths.tolist() == small.table.paths.tolist()


def test_labels_join_everything_that_is_known_of_a_crop(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    plain, joined = opened.labels(SHARD), opened.labels(SHARD, NAME)
    box = ["top", "left", "height", "width", "flip"]
    soft = ["target", "target_prob", "class_0", "class_1", "prob_0", "prob_1"]
    overlay = ["action", "teacher_weight", "target_weight"]
    assert list(plain.columns) == ["image_id", "crop", "path", *box, *soft]
    assert list(joined.columns) == ["image_id", "crop", "path", *box, *soft, *overlay]
    by_key = opened.soft(SHARD).merge(opened.crops(SHARD), on=["image_id", "crop"])
    for name in (*soft, *box):
        np.testing.assert_array_equal(joined[name], by_key[name])
    assert (joined["path"] == small.table.paths[joined["image_id"]]).all()
    assert (joined["target"] == small.table.class_ids[joined["image_id"]]).all()


def test_rows_that_do_not_match_are_not_joined(own: SmallStore) -> None:
    path = own.layout.table("crops", "part-00001")
    columns = crop_columns(own, 1)
    shorter = {name: values[4:] for name, values in columns.items()}
    moved = {**columns, "crop": columns["crop"][::-1]}
    for wrong in (shorter, moved):
        tables.write_table(path, tables.make_table(CROPS, wrong), {})
        with pytest.raises(DataError, match=r"has other rows than .* store verify"):
            LabelStore(own.root).labels(1)


def test_dataset_answers_queries_over_the_whole_store(small: SmallStore) -> None:
    dataset = LabelStore(small.root).dataset()
    assert dataset.count_rows() == NUM_ROWS
    found = dataset.to_table(filter=ds.field("target") == 2, columns=["image_id"])
    expected = np.flatnonzero(small.table.class_ids == 2)
    assert set(found.column("image_id").to_pylist()) == set(expected)
    overlay = LabelStore(small.root).dataset(f"calibrated/{NAME}")
    assert overlay.count_rows(filter=ds.field("action") == 255) == NUM_CROPS


@pytest.mark.parametrize(
    "spec", [SPEC, replace(SPEC, kind="hard"), replace(SPEC, kind="full")], ids=lambda s: s.kind
)
def test_histogram_of_the_maximum(tmp_path: Path, spec: LabelSpec) -> None:
    small = build(tmp_path / "labels", spec)
    edges, counts = LabelStore(small.root).max_prob_counts(10)
    usable = np.delete(small.probs, REJECTED, axis=0).max(axis=-1)
    assert counts.tolist() == np.histogram(usable.astype(np.float16), edges)[0].tolist()
    assert counts.sum() == (NUM_IMAGES - 1) * NUM_CROPS
    assert (edges[0], edges[-1], len(edges)) == (0, 1, 11)


def test_missing_tables_say_why(own: SmallStore, full: SmallStore) -> None:
    opened = LabelStore(own.root)
    with pytest.raises(DataError, match=r"part-00009.parquet is missing; run the stage"):
        opened.soft(9)
    with pytest.raises(DataError, match="holds no Parquet parts; run the stage"):
        opened.dataset("scores")
    with pytest.raises(ParamsError, match="is not a plain folder name"):
        opened.calibration("../soft", 0)
    dense = LabelStore(full.root)
    for read in (lambda: dense.soft(0), dense.dataset):
        with pytest.raises(DataError, match=r"kept in Zarr stores: .*ArrayReader"):
            read()


def test_info_counts_everything(small: SmallStore) -> None:
    found = info.info(small.root)
    assert found == LabelStore(small.root).info()
    json.dumps(found)
    artifacts = found["artifacts"]
    names = ["images", "rejects", "crops", "predictions", "soft", f"calibrated/{NAME}"]
    assert list(artifacts) == names
    assert all(artifacts[name]["is_recorded"] and artifacts[name]["is_one_run"] for name in names)
    assert [artifacts[name]["rows"] for name in names] == [8, 1, *[NUM_ROWS] * 4]
    assert [artifacts[name]["num_parts"] for name in names] == [1, 1, 2, 2, 2, 2]
    files = list(small.layout.folder("soft").glob("*.parquet"))
    assert artifacts["soft"]["num_bytes"] == sum(file.stat().st_size for file in files)
    assert artifacts["crops"]["numbers"] == {"num_images": NUM_IMAGES, "num_crops": NUM_CROPS}
    counts = artifacts[f"calibrated/{NAME}"]["numbers"]["actions"]
    assert sum(counts.values()) == NUM_ROWS
    assert counts["reject"] == NUM_CROPS
    assert (found["num_images"], found["num_classes"]) == (NUM_IMAGES, NUM_CLASSES)
    assert (found["num_crops"], found["calibrations"]) == (NUM_CROPS, [NAME])
    assert found["teacher"] == {"name": "resnet18", "digest": "0" * 32, "device": "cpu"}
    assert LabelSpec(**found["label"]) == SPEC
    assert found["bytes_per_crop"] > found["label_bytes_per_crop"] > 0


def test_info_of_a_store_that_is_only_begun(own: SmallStore) -> None:
    for artifact in ("predictions", "soft"):
        for path in own.layout.folder(artifact).glob("_*.json"):
            path.unlink()
    own.layout.manifest("crops").unlink()
    entry = entries.read_entry(own.layout.entry("crops", "part-00001"))
    entries.publish(own.layout, replace(entry, lineage={"params": {"low": 2}}))
    found = info.info(own.root)
    assert set(found["artifacts"]) == {"images", "rejects", "crops", f"calibrated/{NAME}"}
    assert not found["artifacts"]["crops"]["is_recorded"]
    assert not found["artifacts"]["crops"]["is_one_run"]
    assert "teacher" not in found


def test_info_of_nothing_and_of_damage(own: SmallStore) -> None:
    with pytest.raises(DataError, match="holds no label store"):
        info.info(own.root.parent / "nothing")
    own.layout.entry("crops", "part-00000").write_bytes(b"{")
    with pytest.raises(DataError, match="is not JSON"):
        info.info(own.root)


def test_layout_names() -> None:
    layout = Layout.beside(Path("labels"))
    assert layout.work == Path(".ferkd")
    assert layout.table("soft", "part-00003") == Path("labels/soft/part-00003.parquet")
    assert layout.lock(calibrated("a.b"), "part-00003").name == "calibrated-a.b-part-00003.lock"
    for name in ("", ".", "..", "a/b", "_fit", "a b", "ä", "a\n"):
        with pytest.raises(ParamsError, match="is not a plain folder name"):
            calibrated(name)

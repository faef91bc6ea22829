"""The store for notebooks: what its tables hold, and how they are joined."""

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import store
from store import entries, tables
from store.codecs import Kind
from store.errors import DataError, ParamsError
from store.layout import calibrated
from store.notebook import frames
from store.notebook.label_store import LabelStore
from store.overlay import Action
from tests.store.small_store import (
    NAME,
    NUM_CLASSES,
    NUM_CROPS,
    NUM_IMAGES,
    SPEC,
    SmallStore,
    bounds,
    build,
    crop_columns,
    prediction_values,
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
    overlay = opened.calibration(SHARD)
    assert overlay["action"].tolist() == small.actions[bounds(SHARD)].ravel().tolist()
    assert overlay.equals(opened.calibration(SHARD, NAME))
    names = [Action(number).name.lower() for number in overlay["action"]]
    assert overlay["action_name"].tolist() == names
    assert overlay["action_name"].dtype == "category"
    assert (opened.shards, opened.calibrations) == ([0, 1], [NAME])


def test_images_come_with_the_names_of_their_classes(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    images = opened.images()
    assert images["path"].tolist() == small.table.paths.tolist()
    assert images["class_name"].tolist() == [f"klasse {c}" for c in small.table.class_ids]
    assert opened.classes == tuple(f"klasse {c}" for c in range(NUM_CLASSES))


def test_arrow_has_the_same_values(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    for table, frame in (
        (opened.images(arrow=True), opened.images()),
        (opened.crops(0, arrow=True), opened.crops(0)),
        (opened.soft(0, arrow=True), opened.soft(0)),
        (opened.calibration(0, arrow=True), opened.calibration(0)),
        (opened.labels(0, NAME, arrow=True), opened.labels(0, NAME)),
        (opened.image(3, NAME, arrow=True), opened.image(3, NAME)),
    ):
        assert isinstance(table, pa.Table)
        assert table.to_pandas().equals(frame)


def test_without_a_shard_all_come(small: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = LabelStore(small.root)
    labels = opened.labels(calibration=NAME)
    assert labels["image_id"].tolist() == np.repeat(np.arange(NUM_IMAGES), NUM_CROPS).tolist()
    assert labels["path"].tolist() == np.repeat(small.table.paths, NUM_CROPS).tolist()
    assert len(opened.crops()) == len(opened.soft()) == len(opened.calibration()) == NUM_ROWS
    monkeypatch.setattr(frames, "MAX_ROWS", NUM_ROWS - 1)
    assert len(opened.soft(0)) == NUM_ROWS / 2
    with pytest.raises(ParamsError, match=r"has 32 rows.*such as store.labels\(0\).*batches"):
        opened.labels()
    with pytest.raises(ParamsError, match=r"store.calibration\(0\).*dataset\('calibrated/mixed'\)"):
        opened.calibration()


def test_a_calibration_is_named_where_there_are_several(own: SmallStore) -> None:
    opened = LabelStore(own.root)
    folder = own.layout.folder("calibrated")
    shutil.copytree(folder / NAME, folder / "other")
    for entry in entries.list_entries(own.layout, calibrated(NAME)):
        entries.publish(own.layout, replace(entry, artifact=calibrated("other")))
    with pytest.raises(DataError, match=r"2 calibrations: mixed, other; say which, .*name='mixed'"):
        opened.calibration(0)
    assert opened.calibration(0, "other").equals(opened.calibration(0, NAME))
    for read in (opened.calibration, opened.labels):
        with pytest.raises(DataError, match=r"no calibration 'ferkd' \(there: mixed, other\)"):
            read(0, "ferkd")
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="holds no calibration; run `ferkd-pipeline stage calib"):
        opened.calibration(0)


def test_labels_join_everything_that_is_known_of_a_crop(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    plain, joined = opened.labels(SHARD), opened.labels(SHARD, NAME)
    box = ["top", "left", "height", "width", "flip"]
    soft = ["target", "target_prob", "class_0", "class_1", "prob_0", "prob_1"]
    overlay = ["action", "action_name", "teacher_weight", "target_weight"]
    head = ["image_id", "crop", "path", "target_name"]
    assert list(plain.columns) == [*head, *box, *soft]
    assert list(joined.columns) == [*head, *box, *soft, *overlay]
    by_key = opened.soft(SHARD).merge(opened.crops(SHARD), on=["image_id", "crop"])
    for name in (*soft, *box):
        np.testing.assert_array_equal(joined[name], by_key[name])
    assert joined["path"].tolist() == small.table.paths[joined["image_id"]].tolist()
    assert (joined["target"] == small.table.class_ids[joined["image_id"]]).all()
    assert joined["target_name"].tolist() == [f"klasse {c}" for c in joined["target"]]


@pytest.mark.parametrize("kind", ["marginal_smoothing", "full"])
def test_an_image_is_its_rows_of_the_shard(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 2 * NUM_CROPS)  # two images a row group
    built = build(tmp_path / "labels", replace(SPEC, kind=kind))
    opened = LabelStore(built.root)
    whole = opened.labels(calibration=NAME)
    for image_id, path in enumerate(built.table.paths):
        found = opened.image(image_id, NAME)
        expected = whole[whole["image_id"] == image_id].reset_index(drop=True)
        for name in expected.columns:
            assert found[name].astype(str).tolist() == expected[name].astype(str).tolist()
        assert found.equals(opened.image(str(path), NAME))


def test_an_image_is_found_where_shards_are_missing(own: SmallStore) -> None:
    opened = LabelStore(own.root)
    whole = opened.labels(1)
    own.layout.entry("crops", "part-00000").unlink()
    assert opened.image(7)["top"].tolist() == whole[whole["image_id"] == 7]["top"].tolist()
    with pytest.raises(
        DataError, match=r"no shard of .*crops has image 2 \(klasse .*stage sample`"
    ):
        opened.image(2)


def test_an_unknown_image_is_refused(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    for wrong in (-1, NUM_IMAGES):
        with pytest.raises(DataError, match=f"has no image {wrong}: ids are 0 to 7"):
            opened.image(wrong)
    with pytest.raises(DataError, match=r"lists no 'x.jpg': paths are relative .*'klasse 0/"):
        opened.image("x.jpg")


def test_predictions_are_read_where_they_are_indexed(small: SmallStore) -> None:
    predictions = LabelStore(small.root).predictions(SHARD)
    expected = prediction_values(small, SHARD)
    assert set(predictions) == set(expected)
    logp = predictions["logp"]
    assert logp.shape == (4, NUM_CROPS, NUM_CLASSES)
    np.testing.assert_array_equal(logp[1:3], expected["logp"][1:3])
    np.testing.assert_array_equal(logp[-1], expected["logp"][-1])
    np.testing.assert_array_equal(logp[::2], expected["logp"][::2])
    np.testing.assert_array_equal(np.asarray(logp), expected["logp"])
    assert logp[3:1].shape == (0, NUM_CROPS, NUM_CLASSES)
    assert predictions.attributes["num_crops"] == NUM_CROPS
    assert "logp (4, 4, 5)" in repr(predictions)
    with pytest.raises(IndexError):
        logp[4]
    with pytest.raises(KeyError, match=r"nothing; .* has image_id, logp"):
        predictions["nothing"]


def test_joined_rows_stream_over_the_whole_store(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    streamed = opened.batches(NAME).read_all().unify_dictionaries()
    assert streamed.equals(opened.labels(calibration=NAME, arrow=True))
    rows = opened.batches(NAME, columns=["target_name", "action_name"])
    connection = duckdb.connect()
    connection.register("rows", rows)
    counted = connection.execute("select action_name, count(*) from rows group by 1").fetchall()
    expected = opened.calibration()["action_name"].value_counts().to_dict()
    assert dict(counted) == {name: count for name, count in expected.items() if count}


def test_dataset_answers_queries_over_the_whole_store(small: SmallStore) -> None:
    dataset = LabelStore(small.root).dataset()
    assert dataset.count_rows() == NUM_ROWS
    found = dataset.to_table(filter=ds.field("target") == 2, columns=["image_id"])
    expected = np.flatnonzero(small.table.class_ids == 2)
    assert set(found.column("image_id").to_pylist()) == set(expected)
    overlay = LabelStore(small.root).dataset(f"calibrated/{NAME}")
    assert overlay.count_rows(filter=ds.field("action") == 255) == NUM_CROPS


def test_dense_labels_are_tables_without_their_values(full: SmallStore) -> None:
    soft = LabelStore(full.root).soft(SHARD)
    assert list(soft.columns) == ["image_id", "crop", "target", "max_prob", "target_prob"]
    expected = full.probs[bounds(SHARD)].max(axis=-1).ravel().astype(np.float16)
    np.testing.assert_array_equal(soft["max_prob"], expected)


def test_a_store_describes_itself(own: SmallStore) -> None:
    opened = LabelStore(own.root)
    text, markup = repr(opened), opened._repr_html_()
    for stated in ("8 images of 5 classes", "4 crops an image", "marginal_smoothing, K = 2",
                   "bytes a crop", "teacher resnet18 (00000000)", "calibrated/mixed"):  # fmt: skip
        assert stated in text
        assert stated in markup
    assert any(line.split()[:3] == ["soft", "32", "rows"] for line in text.splitlines())
    nothing = LabelStore(own.root.parent / "<b>")
    assert "holds no label store" in repr(nothing)
    assert "&lt;b&gt; holds no label store" in nothing._repr_html_()

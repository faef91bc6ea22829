"""Recorded augmentation through the whole store: drawn, labelled, verified, and served as it is."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from stages.infer.core import crop_keys
from stages.shared.contract import NoProgress
from store import images, tables
from store.batch import RecordedOps
from store.check import verify
from store.errors import DataError
from store.inspection.row_difference import compare_rows
from store.layout import Layout, part_name
from store.operations import Operation
from store.parts import PartWriter
from store.view.build import plan_view
from tests.world import (
    NUM_CROPS,
    NUM_IMAGES,
    SHARDED,
    Project,
    copy_project,
    forget_predictions,
)

AUGMENT: dict[str, Any] = {
    "sample": {
        "augment": {
            "rand_augment": {"num_ops": 1, "magnitude": 20},
            "colour_jitter": {"brightness": 0.5, "hue": 0.1, "probability": 0.4},
        }
    }
}
NAMES = ["op_0", "level_0", "op_1", "level_1", "op_2", "level_2"]


def crops_of(project: Project, shard: int) -> pa.Table:
    return pq.read_table(project.layout.table("crops", part_name(shard)))


def recorded(project: Project) -> RecordedOps:
    """What pandas would see: (N, M, 3)."""
    rows = pa.concat_tables([crops_of(project, shard) for shard in range(3)])
    shape = (NUM_IMAGES, NUM_CROPS, 3)
    codes = np.stack([rows.column(f"op_{k}").to_numpy() for k in range(3)], axis=1)
    levels = np.stack([rows.column(f"level_{k}").to_numpy() for k in range(3)], axis=1)
    return RecordedOps(codes.reshape(shape), levels.reshape(shape))


@pytest.fixture(scope="module")
def prepared(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project with augmentation, made out of the one without. Nobody changes it."""
    project = copy_project(made, tmp_path_factory.mktemp("augmented"))
    with contextlib.chdir(project.folder):
        project.run(*SHARDED, **AUGMENT)
    return project


@pytest.fixture
def augmented(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project itself, as the current folder, to look at."""
    monkeypatch.chdir(prepared.folder)
    return prepared


@pytest.fixture
def changed(prepared: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, as the current folder, to change."""
    copied = copy_project(prepared, tmp_path / "changed")
    monkeypatch.chdir(copied.folder)
    return copied


def test_columns_stand_behind_the_others(augmented: Project) -> None:
    plain = ["image_id", "crop", "top", "left", "height", "width", "flip"]
    table = crops_of(augmented, 1)
    assert table.column_names == [*plain, *NAMES]
    assert [str(kind) for kind in table.schema.types[7:]] == ["uint8", "float"] * 3
    assert table.column("level_0").null_count == 0
    assert augmented.entry("crops", 1).attributes == {"num_crops": NUM_CROPS, "num_ops": 3}


def test_without_it_not_a_byte_changes(own: Project) -> None:
    before = own.tree("labels")
    assert own.why("sample", sample={"augment": None}) == ["complete"] * 3
    boxes = [crops_of(own, shard) for shard in range(3)]
    own.run("sample", **AUGMENT)
    with_ops = [crops_of(own, shard).select(boxes[0].column_names) for shard in range(3)]
    assert [each.replace_schema_metadata() for each in with_ops] == [
        each.replace_schema_metadata() for each in boxes
    ]
    own.run("sample")
    assert own.tree("labels/crops") == {k: v for k, v in before.items() if "/crops/" in k}
    assert "num_ops" not in own.entry("crops", 0).attributes


@pytest.mark.parametrize("num_shards", [1, 7])
def test_shards_move_no_operation(changed: Project, num_shards: int) -> None:
    before = recorded(changed)
    changed.run("sample", store={"num_shards": num_shards}, **AUGMENT)
    rows = pa.concat_tables([crops_of(changed, shard) for shard in range(num_shards)])
    for place in range(3):
        found = rows.column(f"level_{place}").to_numpy().reshape(NUM_IMAGES, NUM_CROPS)
        np.testing.assert_array_equal(found, before.levels[..., place])


def test_the_teacher_sees_what_is_recorded_and_no_more(made: Project, changed: Project) -> None:
    with contextlib.chdir(made.folder):
        plain = made.predictions()
    found, ops = changed.predictions(), recorded(changed)
    is_changed = ops.codes.any(axis=-1)
    assert 0.1 < is_changed.mean() < 1
    same_key = found["crop_key"] == plain["crop_key"]
    np.testing.assert_array_equal(same_key, ~is_changed)
    same = (found["logp"] == plain["logp"]).all(axis=-1)
    assert same[~is_changed].all()
    # A shift of black, a brightness of 1: some operations show nothing.
    assert same[is_changed].mean() < 0.2
    # What was copied from the predictions without augmentation is what a fresh run says.
    copied = changed.tree("labels/predictions")
    forget_predictions()
    changed.run("infer", **AUGMENT)
    assert changed.tree("labels/predictions") == copied


def test_the_view_has_the_columns_of_the_file(augmented: Project) -> None:
    view = plan_view(augmented.layout, 3, Path("images")).open()
    rows = np.array([3, 0, view.num_images - 1])
    crops = view.draw(rows, 2, 3, seed=1)
    expected, ids = recorded(augmented), view.image_ids[rows][:, None]
    for found in (view.gather(rows, crops).ops, view.fetch(rows, crops).ops):
        assert found is not None
        assert (found.codes.dtype.str, found.levels.dtype.str) == ("|u1", "<f4")
        np.testing.assert_array_equal(found.codes, expected.codes[ids, crops])
        np.testing.assert_array_equal(found.levels, expected.levels[ids, crops])
    hashes = images.load(augmented.layout).content_hashes[view.image_ids]
    assert [f"{high:016x}{low:016x}" for high, low in view.content_hashes.tolist()] == list(hashes)


def test_it_verifies(augmented: Project) -> None:
    assert verify.verify(augmented.layout.root, NoProgress(), deep=True).damages == []


def test_stores_are_compared_by_operations_too(changed: Project) -> None:
    augment = {**AUGMENT["sample"]["augment"], "colour_jitter": None}
    changed.run("index", "sample", store={"root": "labels-other"}, sample={"augment": augment})
    found = compare_rows(Path("labels"), Path("labels-other"), NoProgress()).crops
    assert found is not None
    by_jitter = recorded(changed).codes[..., 1:].any(axis=-1)
    assert (found.other_box, found.other_flip, found.other_ops) == (0, 0, by_jitter.sum())


def rewrite(layout: Layout, project: Project, change: dict[str, Any], num_ops: int = 3) -> None:
    """Publish the crops of shard 1 with other columns."""
    entry, table = project.entry("crops", 1), crops_of(project, 1)
    for name, values in change.items():
        place = table.column_names.index(name)
        kind = table.schema.field(name).type
        table = table.set_column(place, name, pa.array(values, type=kind))
    part = PartWriter(layout, "crops", entry.stem, entry.stage, entry.key, entry.lineage)
    attributes = {"num_crops": NUM_CROPS, "num_ops": num_ops}
    part.publish_table(
        table.replace_schema_metadata(), entry.numbers, attributes=attributes, rows_per_image=4
    )


def columns(project: Project, name: str) -> NDArray[Any]:
    return tables.column(crops_of(project, 1), name).copy()


@pytest.mark.parametrize(
    ("code", "level", "complaint"),
    [
        (16, 0.0, "the operation 16"),
        (int(Operation.BRIGHTNESS), -0.5, "brightness with level -0.5"),
        (int(Operation.POSTERIZE), 2.5, "posterize with level 2.5"),
    ],
)
def test_operations_that_cannot_be_replayed_name_the_file(
    changed: Project, code: int, level: float, complaint: str
) -> None:
    codes, levels = columns(changed, "op_0"), columns(changed, "level_0")
    codes[5], levels[5] = code, level
    rewrite(changed.layout, changed, {"op_0": codes, "level_0": levels})
    with pytest.raises(DataError, match=rf"crops/part-00001\.parquet has .*{complaint}"):
        changed.run("infer", shards=(1,), **AUGMENT)
    damages = verify.verify(changed.layout.root, NoProgress(), deep=True).damages
    assert any(complaint in each.kind and "part-00001" in each.file for each in damages)


def test_a_count_that_is_not_the_columns_is_told(changed: Project) -> None:
    rewrite(changed.layout, changed, {}, num_ops=2)
    kinds = [each.kind for each in verify.verify(changed.layout.root, NoProgress()).damages]
    assert "has the column op_2, its entry counts 2 operations a crop" in kinds
    rewrite(changed.layout, changed, {}, num_ops=4)
    kinds = [each.kind for each in verify.verify(changed.layout.root, NoProgress()).damages]
    assert "lacks the columns op_3, level_3" in kinds
    forget_predictions()
    with pytest.raises(DataError, match="lacks the column op_3"):
        changed.run("infer", shards=(1,), **AUGMENT)


def test_crop_keys_name_the_operations_that_do_something() -> None:
    table = images.ImageTable(
        np.array(["a/1.jpg"], dtype=object),
        np.zeros(1, np.int32),
        np.full(1, 9, np.int32),
        np.full(1, 9, np.int32),
        np.array(["00"], dtype=object),
        ("a",),
    )
    boxes, flips = np.zeros((1, 6, 4), np.int32), np.zeros((1, 6), np.bool_)
    pairs = [
        [(0, 0), (0, 0)],
        [(1, 0.5), (0, 0)],
        [(0, 0), (1, 0.5)],  # the same: what does nothing has no name
        [(1, 0.5), (2, 0.5)],
        [(2, 0.5), (1, 0.5)],
        [(1, 0.25), (0, 0)],
    ]
    values = np.array([pairs], np.float32)
    ops = RecordedOps(values[..., 0].astype(np.uint8), values[..., 1])
    keys = crop_keys(table, boxes, flips, ops)[0].tolist()
    assert keys[0] == crop_keys(table, boxes, flips)[0, 0]
    assert keys[1] == keys[2]
    assert len(set(keys)) == 5

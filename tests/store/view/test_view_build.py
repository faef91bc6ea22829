"""Building and opening training views: once, whole, and only from parts that fit together."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import entries, lock
from store.digest import rows_digest
from store.errors import DataError, FerkdError
from store.layout import Layout, part_name
from store.overlay import Action
from store.schema import CALIBRATED, CROPS
from store.tables import make_table
from store.view import build as view_build
from store.view import fill as view_fill
from store.view.build import plan_view
from store.view.reader import TrainingView
from tests.store.processes import kill_at_line, running, wait_for_line
from tests.store.small_store import (
    NAME,
    NUM_SHARDS,
    SmallStore,
    crop_columns,
    overlay_columns,
    publish_rows,
)


def open_view(small: SmallStore, calibration: str | None = None) -> TrainingView:
    return plan_view(small.layout, NUM_SHARDS, small.root.parent / "data", calibration).open()


def folder_of(small: SmallStore) -> Path:
    return open_view(small).folder


def test_view_is_built_once_and_lies_outside_the_store(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(own)
    assert folder.parent == own.root.parent / ".ferkd" / "view"
    before = (folder / "meta.json").stat().st_ino
    assert folder_of(own) == folder
    assert (folder / "meta.json").stat().st_ino == before
    elsewhere = own.root.parent / "fast disk"
    monkeypatch.setenv("FERKD_CACHE", str(elsewhere))
    assert folder_of(own).parent == elsewhere
    assert {path.name for path in elsewhere.iterdir()} == {folder.name, f"{folder.name}.lock"}


OPEN = """
import sys, time
from pathlib import Path
from store.view import build as view_build
from store.layout import Layout

plain = view_build.build

def build(*inputs):
    with open(sys.argv[3], "a") as file:
        file.write("built\\n")
    time.sleep(0.5)
    plain(*inputs)

view_build.build = build
plan = view_build.plan_view(Layout.beside(Path(sys.argv[1])), 2, Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
print(plan.open().num_images, flush=True)
"""


def test_two_processes_at_once_build_it_once(own: SmallStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(OPEN, own.root, "data", log) as one, running(OPEN, own.root, "data", log) as other:
        for process in (one, other):
            assert wait_for_line(process) == "ready"
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [wait_for_line(process) for process in (one, other)] == ["7", "7"]
    assert log.read_text() == "built\n"


def test_view_that_another_built_while_we_waited_is_not_built_again(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may finish between our look at the folder and our lock."""
    plan = plan_view(own.layout, NUM_SHARDS, Path("data"))
    plain = lock.hold

    @contextmanager
    def hold(path: Path) -> Iterator[None]:
        monkeypatch.setattr(lock, "hold", plain)
        plan.open()
        with plain(path):
            built.append((path.with_suffix("") / "meta.json").stat().st_ino)
            yield

    built: list[int] = []
    monkeypatch.setattr(lock, "hold", hold)
    assert (plan.open().folder / "meta.json").stat().st_ino == built[0]


def test_killed_build_is_begun_anew(own: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = folder_of(own)
    names = {path.name for path in expected.iterdir()}
    shutil.rmtree(expected)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(view_fill, "_save_images", fail)
    with pytest.raises(KeyboardInterrupt):
        folder_of(own)
    assert not expected.exists()
    (expected.parent / f".{expected.name}.new-host-1.tmp").mkdir()
    monkeypatch.undo()
    assert {path.name for path in folder_of(own).iterdir()} == names
    assert {path.name for path in expected.parent.iterdir()} == {
        expected.name,
        f"{expected.name}.lock",
    }


DIE = """
import sys, time
from pathlib import Path
from store.view import fill as view_fill
from store.layout import Layout
from store.view.build import plan_view

def wait(*_):
    print("filled", flush=True)
    time.sleep(60)

view_fill._save_images = wait
plan_view(Layout.beside(Path(sys.argv[1])), 2, Path(sys.argv[2])).open()
"""


def test_build_that_was_killed_leaves_nothing_to_be_seen(own: SmallStore) -> None:
    folder = own.root.parent / "data"
    kill_at_line(DIE, own.root, folder)
    plan = plan_view(own.layout, NUM_SHARDS, folder)
    assert all(
        path.name.startswith(".") or path.suffix in (".lock", ".lease")
        for path in own.layout.view_cache().iterdir()
    )
    view = plan.open()
    assert view.num_images == 7
    names = {path.name for path in own.layout.view_cache().iterdir()}
    assert names == {view.folder.name, f"{view.folder.name}.lock"}


def test_views_of_a_new_version_train_no_student_again(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan_view(own.layout, NUM_SHARDS, Path("data"))
    folder = before.open().folder
    monkeypatch.setattr(view_build, "VIEW_VERSION", 99)
    after = plan_view(own.layout, NUM_SHARDS, Path("data"))
    assert after.meta.digest == before.meta.digest
    assert after.open().folder != folder


def republish_crops(small: SmallStore, change: Callable[[dict[str, Any]], object]) -> None:
    columns = crop_columns(small, 1)
    change(columns)
    entry = entries.read_entry(small.layout.entry("crops", "part-00001"))
    from_parts = replace_inputs(small, "soft", crops=rows_digest_of(columns))
    publish = make_table(CROPS, columns)
    new = publish_rows(
        small.layout, "crops", "part-00001", "sample", entry.lineage["inputs"], publish
    )
    entries.publish(small.layout, replace(new, attributes=entry.attributes))
    entries.publish(small.layout, from_parts)


def rows_digest_of(columns: dict[str, Any]) -> str:
    return rows_digest({name: columns[name] for name in CROPS.names})


def replace_inputs(small: SmallStore, artifact: str, **inputs: str) -> entries.Entry:
    entry = entries.read_entry(small.layout.entry(artifact, "part-00001"))
    lineage = {**entry.lineage, "inputs": {**entry.lineage["inputs"], **inputs}}
    return replace(entry, lineage=lineage)


def test_view_is_built_again_when_a_digest_changes(own: SmallStore) -> None:
    first = open_view(own)
    republish_crops(own, lambda columns: columns.update(top=columns["top"] + 1))
    second = open_view(own)
    assert first.folder != second.folder
    assert plan_view(own.layout, NUM_SHARDS, Path("other images")).open().folder != second.folder
    assert open_view(own, NAME).folder != second.folder
    row, crops = np.array([6]), np.array([[0]])
    moved = second.gather(row, crops).boxes - first.gather(row, crops).boxes
    np.testing.assert_array_equal(moved, [[[1, 0, 0, 0]]])


def test_digest_is_that_of_the_contents_wherever_the_images_lie(
    own: SmallStore, tmp_path: Path
) -> None:
    here = plan_view(own.layout, NUM_SHARDS, Path("images"))
    there = plan_view(own.layout, NUM_SHARDS, Path("other images"))
    copy = Path(shutil.copytree(own.root, tmp_path / "elsewhere" / "labels"))
    copied = plan_view(Layout.beside(copy), NUM_SHARDS, tmp_path / "elsewhere" / "images")
    assert here.meta.digest == there.meta.digest == copied.meta.digest
    views = [plan.open() for plan in (here, there)]
    assert views[0].folder != views[1].folder
    rows = np.arange(2)
    for view, folder in zip(views, ("images", "other images"), strict=True):
        assert all(path.startswith(f"{Path(folder).absolute()}/") for path in view.paths(rows))
    assert plan_view(own.layout, NUM_SHARDS, Path("images"), NAME).meta.digest != here.meta.digest


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "records.npy").unlink(),
        lambda folder: (folder / "dense.npy").unlink(),
        lambda folder: os.truncate(folder / "dense.npy", 200),
        lambda folder: os.truncate(folder / "records.npy", 200),
        lambda folder: os.truncate(folder / "records.npy", 0),
        lambda folder: (folder / "meta.json").write_text("{}"),
        lambda folder: (folder / "meta.json").write_text("["),
        lambda folder: (folder / "hashes.npy").write_bytes(pickle.dumps("evil")),
        lambda folder: np.save(folder / "num_kept.npy", np.zeros((2, 4), np.uint16)),
        lambda folder: np.save(folder / "num_kept.npy", np.full(7, 3)),
        lambda folder: np.save(folder / "image_ids.npy", np.arange(7) + 2),
        lambda folder: np.save(folder / "records.npy", np.zeros((7, 4))),
        lambda folder: change_meta(folder, version=0),
        lambda folder: change_meta(folder, num_images=9),
        lambda folder: change_meta(folder, label={"kind": "none"}),
        lambda folder: change_meta(folder, has_losses=True),
        lambda folder: change_meta(folder, record={"box": "int16"}),
        lambda folder: change_meta(folder, record={"box": "int8"}),
        lambda folder: change_meta(folder, fields={}),
    ],
)
def test_damaged_view_is_told(
    full: SmallStore,
    copy_of: Callable[[SmallStore], SmallStore],
    damage: Callable[[Path], object],
) -> None:
    small = copy_of(full)
    folder = folder_of(small)
    damage(folder)
    with pytest.raises(DataError, match=re.escape(f"{folder} is ") + ".* delete it"):
        open_view(small)
    shutil.rmtree(folder)
    assert open_view(small).num_images == 7


def change_meta(folder: Path, **changes: object) -> None:
    raw = json.loads((folder / "meta.json").read_bytes())
    (folder / "meta.json").write_text(json.dumps({**raw, **changes}))


def test_missing_parts_are_told(own: SmallStore) -> None:
    with pytest.raises(DataError, match=r"other/_part-00000.json is missing; run `ferkd-pipeline"):
        open_view(own, "other")
    own.layout.entry("soft", "part-00001").unlink()
    with pytest.raises(DataError, match="`ferkd-pipeline stage compress --shard 1` first"):
        open_view(own)
    own.layout.entry("images", "images").unlink()
    with pytest.raises(DataError, match="run `ferkd-pipeline stage index` first"):
        open_view(own)


@pytest.mark.parametrize(
    ("artifact", "name", "stage"),
    [
        ("crops", "images", "sample --shard 1"),
        ("soft", "crops", "compress --shard 1"),
        ("soft", "targets", "compress --shard 1"),
        (f"calibrated/{NAME}", "soft", "calibrate"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    own: SmallStore, artifact: str, name: str, stage: str
) -> None:
    entries.publish(own.layout, replace_inputs(own, artifact, **{name: "0" * 32}))
    told = f"was made from other {name} than .* run `ferkd-pipeline stage {stage}` again"
    with pytest.raises(DataError, match=told):
        open_view(own, NAME)


def change_entry(small: SmallStore, artifact: str, **attributes: object) -> None:
    entry = entries.read_entry(small.layout.entry(artifact, "part-00001"))
    entries.publish(small.layout, replace(entry, attributes={**entry.attributes, **attributes}))


@pytest.mark.parametrize(
    ("artifact", "attributes", "told"),
    [
        ("soft", {"label": {"kind": "hard", "k": 1, "num_classes": 5}}, "holds other labels"),
        ("soft", {"label": {"kind": "soft", "k": 1, "num_classes": 5}}, "describes no label"),
        ("soft", {"label": None}, "describes no label"),
        ("crops", {"num_crops": 3}, "part-00001.json has 3 crops an image, part-00000 has 4"),
    ],
)
def test_parts_of_two_kinds_are_refused(
    own: SmallStore, artifact: str, attributes: dict[str, object], told: str
) -> None:
    change_entry(own, artifact, **attributes)
    with pytest.raises(DataError, match=told):
        open_view(own)


def test_labels_of_other_classes_are_refused(own: SmallStore) -> None:
    for stem in ("part-00000", "part-00001"):
        entry = entries.read_entry(own.layout.entry("soft", stem))
        label = {**entry.attributes["label"], "num_classes": 9}
        entries.publish(own.layout, replace(entry, attributes={**entry.attributes, "label": label}))
    with pytest.raises(DataError, match="holds labels of 9 classes"):
        open_view(own)


def test_shorter_tables_are_refused(own: SmallStore) -> None:
    republish_crops(own, lambda columns: columns.update({k: v[4:] for k, v in columns.items()}))
    with pytest.raises(DataError, match=r"does not hold 4 crops of each image from 4 to 7; run"):
        open_view(own)


def test_swapped_table_is_refused(own: SmallStore) -> None:
    shutil.copy(own.layout.table("crops", "part-00000"), own.layout.table("crops", "part-00001"))
    with pytest.raises(DataError, match="run `ferkd-pipeline stage sample --shard 1` again"):
        open_view(own)


def test_damaged_shard_leaves_no_view(own: SmallStore) -> None:
    path = own.layout.table("soft", "part-00001")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"has \d+ bytes instead of \d+; .* compress --shard 1"):
        open_view(own)
    assert [path.suffix for path in own.layout.view_cache().iterdir()] == [".lock"]


def test_nothing_left_to_train_on(own: SmallStore) -> None:
    dropped = np.full_like(own.actions, Action.DROP)
    for shard in range(NUM_SHARDS):
        stem = part_name(shard)
        soft = entries.read_entry(own.layout.entry("soft", stem)).rows_digest
        rows = make_table(CALIBRATED, overlay_columns(dropped, shard))
        publish_rows(own.layout, f"calibrated/{NAME}", stem, "calibrate", {"soft": soft}, rows)
    with pytest.raises(DataError, match="has no image left to train on"):
        open_view(own, NAME)


def test_too_small_a_disk_is_told_before_any_work(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(own.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(FerkdError, match=r"needs \d+ bytes in .* set FERKD_CACHE to a folder"):
        open_view(own)


def test_disk_is_reserved_before_it_is_written(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        open_view(own)
    assert [path.suffix for path in own.layout.view_cache().iterdir()] == [".lock"]

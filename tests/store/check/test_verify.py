"""Verify finds every flipped bit, and every part that does not fit the others."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from store import entries
from store.check import verify
from store.codecs import LabelSpec
from store.errors import DataError
from store.layout import Layout
from store.schema import CROPS
from store.tables import make_table
from tests.store.check.found import STEM, Watch, damages, flip_last_byte, kinds
from tests.store.small_store import (
    NAME,
    SPEC,
    SmallStore,
    build,
    crop_columns,
    publish_rows,
)


def test_whole_store_is_whole(small: SmallStore) -> None:
    watch = Watch()
    result = verify.verify(small.root, watch)
    assert result.damages == []
    recorded = [
        record
        for artifact in verify.list_artifacts(small.layout)
        for entry in entries.list_entries(small.layout, artifact)
        for record in entry.files.values()
    ]
    assert result.num_files == len(recorded) > 30
    assert result.num_bytes == sum(record.num_bytes for record in recorded)
    assert watch.done == watch.total == result.num_bytes


@pytest.mark.parametrize(
    "spec", [replace(SPEC, kind="full"), replace(SPEC, kind="hard"), replace(SPEC, temperature=2.0)]
)
def test_whole_stores_of_other_kinds_are_whole(tmp_path: Path, spec: LabelSpec) -> None:
    assert damages(build(tmp_path / "labels", spec).root) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            "has {less} bytes instead of {size}",
        ),
        (lambda path: path.write_bytes(b""), "has 0 bytes instead of {size}"),
        (lambda path: path.unlink(), "is missing"),
        (flip_last_byte, "has other bytes than recorded (SHA-256)"),
    ],
)
@pytest.mark.parametrize(
    "name",
    [f"soft/{STEM}.parquet", f"predictions/{STEM}.zarr/logp/c/0/0/0", "images/classes.parquet"],
)
def test_damaged_files_are_named(
    own: SmallStore, name: str, change: Callable[[Path], object], kind: str
) -> None:
    size = (own.root / name).stat().st_size
    change(own.root / name)
    assert kinds(own) == {(name, kind.format(size=size, less=size - 1))}


def test_foreign_files_are_found(own: SmallStore) -> None:
    strays = [
        "notes.txt",
        "soft/notes.txt",
        "soft/part-00009.parquet",
        f"predictions/{STEM}.zarr/logp/c/7",
        "predictions/_fit.json",
        f"calibrated/{NAME}/deep/x",
        "calibrated/x",
    ]
    left = "soft/.part-00000.parquet.new-host-1.tmp"
    for name in (*strays, left, "soft/part-00009.zarr/zarr.json", "soft/part-00009.zarr/c/0"):
        (own.root / name).parent.mkdir(exist_ok=True, parents=True)
        (own.root / name).write_bytes(b"x")
    (own.root / "soft" / ".gitignore").write_bytes(b"/part")
    assert kinds(own) == {
        *((name, "belongs to no entry") for name in (*strays, "soft/part-00009.zarr")),
        (left, "left by a run that was killed, or is running now"),
    }


def test_lost_entries_are_found(own: SmallStore) -> None:
    own.layout.entry("soft", STEM).unlink()
    own.layout.manifest("crops").unlink()
    no_manifest = "no manifest: the stage is not finished, or not recorded"
    expected = {
        (f"soft/_{STEM}.json", "missing, though it was recorded"),
        ("crops/_manifest.json", no_manifest),
    }
    assert kinds(own) == expected
    entries.write_manifest(own.layout, "crops")
    (own.layout.manifest("crops")).write_bytes(b"{}")
    assert ("crops/_manifest.json", "damaged manifest: is damaged") in kinds(own)


def test_bytes_are_checked_where_only_the_manifest_lists_them(own: SmallStore) -> None:
    own.layout.entry("soft", STEM).write_bytes(b"{")
    flip_last_byte(own.layout.table("soft", STEM))
    assert {name for name, _ in kinds(own)} == {f"soft/_{STEM}.json", f"soft/{STEM}.parquet"}


def test_links_are_followed_to_right_bytes_only(own: SmallStore, tmp_path: Path) -> None:
    """DVC may link files into its cache; an artifact may lie on another disk."""
    elsewhere = tmp_path / "elsewhere"
    shutil.move(own.root / "soft", elsewhere)
    (own.root / "soft").symlink_to(elsewhere)
    table = own.layout.table("crops", STEM)
    table.rename(tmp_path / "cached")
    table.symlink_to(tmp_path / "cached")
    assert kinds(own) == set()
    (elsewhere / "x").write_bytes(b"")
    flip_last_byte(tmp_path / "cached")
    assert kinds(own) == {
        ("soft/x", "belongs to no entry"),
        (f"crops/{STEM}.parquet", "has other bytes than recorded (SHA-256)"),
    }
    (tmp_path / "cached").unlink()
    (own.root / "soft" / "loop").symlink_to(own.root)
    found = kinds(own)
    assert (f"crops/{STEM}.parquet", "is a link to nothing") in found
    assert ("soft/loop", "is a link to a folder, whose files nobody checks") in found


def test_pipes_and_devices_do_not_stop_it(own: SmallStore) -> None:
    for path in (own.layout.table("soft", STEM), own.layout.entry("crops", STEM)):
        path.unlink()
        os.mkfifo(path)
    own.layout.table("crops", STEM).unlink()
    own.layout.table("crops", STEM).symlink_to("/dev/zero")
    assert kinds(own) >= {
        (f"soft/{STEM}.parquet", "is not a file"),
        (f"crops/_{STEM}.json", "is not a file"),
        (f"crops/{STEM}.parquet", "is not a file"),
    }


def test_unrecorded_part_is_found(own: SmallStore) -> None:
    manifest = own.layout.manifest("soft").read_bytes()
    rows = make_table(CROPS, crop_columns(own, 0))
    publish_rows(own.layout, "soft", "part-00007", "compress", {}, rows)
    own.layout.manifest("soft").write_bytes(manifest)
    assert ("soft/_part-00007.json", "not in the manifest") in kinds(own)


def test_changed_spelling_of_an_entry_is_found(own: SmallStore) -> None:
    path = own.layout.entry("crops", STEM)
    path.write_bytes(path.read_bytes().replace(b"1e-05", b"1E-05"))
    assert kinds(own) == {(f"crops/_{STEM}.json", "entry is not the recorded one")}


def test_unreadable_files_are_told(own: SmallStore) -> None:
    """A folder where a file should be: what a file system gives back is not always a file."""
    for path in (own.layout.entry("crops", STEM), own.layout.table("soft", STEM)):
        path.unlink()
        path.mkdir()
    found = kinds(own)
    assert (f"crops/_{STEM}.json", "damaged entry: is not a file") in found
    assert any(name == f"soft/{STEM}.parquet" for name, _ in found)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no label store; run `ferkd-pipeline stage index`"):
        damages(tmp_path / "nothing")


def test_artifacts_are_listed(small: SmallStore) -> None:
    plain = ["images", "rejects", "crops", "predictions", "soft"]
    assert verify.list_artifacts(small.layout) == [*plain, f"calibrated/{NAME}"]
    assert verify.list_artifacts(Layout.beside(small.root / "nothing")) == []

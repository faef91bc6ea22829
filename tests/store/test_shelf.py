"""Shards set aside and taken back: nothing is lost, wherever a kill falls."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from store import atomic, entries, shelf
from store.errors import DataError
from tests.store.small_store import SmallStore, files_of

ARTIFACT, STEM, STAGE = "predictions", "part-00001", "infer"


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the code under test may catch it."""


def key_of(small: SmallStore) -> str:
    return entries.read_entry(small.layout.entry(ARTIFACT, STEM)).key


def aside(small: SmallStore) -> bool:
    return shelf.set_aside(small.layout, ARTIFACT, STEM, STAGE)


def back(small: SmallStore, key: str) -> bool:
    return shelf.take_back(small.layout, ARTIFACT, STEM, STAGE, key)


def stands(small: SmallStore) -> bool:
    """Whether any file of the shard lies in the artifact."""
    names = files_of(small.layout.folder(ARTIFACT))
    return any(STEM in name or "_rejects-00001" in name for name in names)


def inodes_of(small: SmallStore) -> dict[Path, int]:
    """Of every file but the manifest, which is written again."""
    found = {path: path.stat().st_ino for path in small.root.rglob("*") if path.is_file()}
    del found[small.layout.manifest(ARTIFACT)]
    return found


def test_round_trip_changes_no_byte(own: SmallStore) -> None:
    before, key = files_of(own.root), key_of(own)
    inodes = inodes_of(own)
    assert aside(own)
    assert not stands(own)
    assert not own.layout.manifest(ARTIFACT).exists()
    assert entries.find_entry(own.layout, ARTIFACT, "part-00000") is not None
    assert back(own, key)
    entries.write_manifest(own.layout, ARTIFACT)
    assert files_of(own.root) == before
    assert inodes_of(own) == inodes  # renamed, not copied
    assert not back(own, key)


def test_taking_back_sweeps_what_a_killed_writer_left(own: SmallStore) -> None:
    """Killed with other parameters, between writing an entry and giving it its name."""
    key = key_of(own)
    assert aside(own)
    final = own.layout.entry(ARTIFACT, STEM)
    left = final.with_name(f".{final.name}.new-{socket.gethostname()}-1.tmp")
    left.write_bytes(b"{")
    assert back(own, key)
    assert not left.exists()


def test_nothing_to_move(own: SmallStore) -> None:
    assert not shelf.set_aside(own.layout, ARTIFACT, "part-00009", STAGE)
    assert not back(own, "0" * 64)
    own.layout.entry(ARTIFACT, STEM).write_bytes(b"{")
    assert not aside(own)
    assert stands(own)


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("is_after", [False, True])
def test_killed_half_way_can_be_done_again(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch, at: int, is_after: bool
) -> None:
    """Killed before or after each rename of a move out and a move back: the store is the same."""
    before, key = files_of(own.root), key_of(own)
    plain, count = os.rename, [0]

    def rename(source: Path, target: Path) -> None:
        if count[0] == at and not is_after:
            raise Killed
        plain(source, target)
        count[0] += 1
        if count[0] == at + 1 and is_after:
            raise Killed

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(Killed):
        assert aside(own)
        assert back(own, key)
        raise AssertionError("it renames six times")
    monkeypatch.undo()
    if entries.find_entry(own.layout, ARTIFACT, STEM) is not None and count[0] < 3:
        assert aside(own)
    if entries.find_entry(own.layout, ARTIFACT, STEM) is None:
        assert back(own, key)
    assert entries.why_incomplete(own.layout, ARTIFACT, STEM, key) is None
    entries.write_manifest(own.layout, ARTIFACT)
    assert files_of(own.root) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "_rejects-00001.parquet").unlink(),
        lambda folder: (folder / f"{STEM}.zarr" / "zarr.json").write_bytes(b"{}"),
        lambda folder: (folder / f"_{STEM}.json").write_bytes(b"{}"),
    ],
)
def test_damaged_shard_is_not_taken_back(own: SmallStore, damage: Callable[[Path], object]) -> None:
    key = key_of(own)
    aside(own)
    damage(own.layout.resumable(STAGE, key))
    assert not back(own, key)
    assert not stands(own)


def test_another_shard_in_the_way_is_withdrawn_first(own: SmallStore) -> None:
    """Never may files of one key stand under the entry of another."""
    key = key_of(own)
    aside(own)
    wrong = own.layout.entry(ARTIFACT, STEM)
    wrong.write_bytes(b"the entry of another key")
    seen: list[bool] = []
    plain = atomic.rename

    def rename(source: Path, final: Path) -> None:
        seen.append(wrong.exists())
        plain(source, final)

    shelf_rename = pytest.MonkeyPatch()
    shelf_rename.setattr("store.shelf.rename", rename)
    try:
        assert back(own, key)
    finally:
        shelf_rename.undo()
    assert seen == [False, False, False]


def test_finished_finds_shards_on_the_shelf_and_in_the_artifact(own: SmallStore) -> None:
    key = key_of(own)
    aside(own)
    broken = own.layout.resumable(STAGE, "1" * 64) / "_part-00000.json"
    atomic.write_bytes(broken, b"{}")
    found = {(e.stem, folder) for e, folder in shelf.finished(own.layout, ARTIFACT, STAGE)}
    assert found == {
        (STEM, own.layout.resumable(STAGE, key)),
        ("part-00000", own.layout.folder(ARTIFACT)),
    }


def test_clear_spares_a_shard_set_aside(own: SmallStore) -> None:
    key = key_of(own)
    folder = own.layout.resumable(STAGE, key)
    (folder / "journal").mkdir(parents=True)
    shelf.clear(folder)
    assert not folder.exists()
    aside(own)
    (folder / "arrays.zarr").mkdir()
    shelf.clear(folder)
    assert back(own, key)
    shelf.clear(own.layout.resumable(STAGE, "nothing"))


def test_entry_that_leads_out_of_the_store_moves_nothing(own: SmallStore) -> None:
    path = own.layout.entry(ARTIFACT, STEM)
    raw = json.loads(path.read_bytes())
    del raw["sha256"]
    raw["files"]["../crops"] = raw["files"].pop(f"{STEM}.zarr/zarr.json")
    path.write_text(json.dumps(raw))
    assert not aside(own)
    with pytest.raises(DataError, match="not an entry"):
        entries.read_entry(path)

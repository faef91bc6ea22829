"""Entries and manifests: published last, self-checking, the same bytes every time."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from store import entries
from store.digest import sha256_json
from store.entries import Entry
from store.entry import NewerFormatError
from store.errors import DataError
from store.layout import Layout
from store.parts import PartWriter
from store.schema import CROPS
from store.tables import make_table
from tests.store.small_store import (
    NUM_CROPS,
    SPEC,
    SmallStore,
    build,
    crop_columns,
    files_of,
    writer,
)

STEM = "part-00000"


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what an entry says, as a writer would: with its digest."""
    raw = json.loads(path.read_bytes())
    del raw["sha256"]
    change(raw)
    path.write_text(json.dumps({**raw, "sha256": sha256_json(raw)}))


def entry_of(small: SmallStore, artifact: str = "crops") -> Entry:
    return entries.read_entry(small.layout.entry(artifact, STEM))


def why(small: SmallStore, artifact: str = "crops", key: str | None = None) -> str | None:
    wanted = entry_of(small, artifact).key if key is None else key
    return entries.why_incomplete(small.layout, artifact, STEM, wanted)


def test_entry_is_published_after_the_files_and_withdrawn_before(
    tmp_path: Path, small: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.beside(tmp_path / "labels")
    entry, manifest = layout.entry("crops", STEM), layout.manifest("crops")
    seen: list[tuple[bool, bool, bool]] = []
    plain = entries.publish

    def publish(where: Layout, published: Entry) -> None:
        there = [layout.folder("crops") / name for name in published.files]
        seen.append((all(p.is_file() for p in there), entry.exists(), manifest.exists()))
        plain(where, published)

    monkeypatch.setattr(entries, "publish", publish)
    rows = make_table(CROPS, crop_columns(small, 0))
    for _ in range(2):
        part = writer(layout, "crops", STEM, "sample", {})
        part.publish_table(rows, {}, rows_per_image=NUM_CROPS)
        entries.write_manifest(layout, "crops")
    assert seen == [(True, False, False)] * 2
    assert entry.exists()


def test_a_failed_writer_leaves_no_entry(own: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    part = writer(own.layout, "crops", STEM, "sample", {})

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("store.tables.pq.write_table", fail)
    with pytest.raises(OSError, match="No space"):
        part.publish_table(make_table(CROPS, crop_columns(own, 0)), {}, rows_per_image=NUM_CROPS)
    assert why(own, key="any") == "not made yet"
    assert not own.layout.manifest("crops").exists()


def test_a_new_kind_replaces_the_files_of_the_old_one(own: SmallStore) -> None:
    stale = own.layout.arrays("soft", STEM)
    stale.mkdir()
    (stale / "zarr.json").write_text("{}")
    leftover = own.layout.folder("soft") / f".{STEM}.zarr.old-host-1.tmp"
    leftover.mkdir()
    part = writer(own.layout, "soft", STEM, "compress", {})
    part.publish_table(make_table(CROPS, crop_columns(own, 0)), {}, rows_per_image=NUM_CROPS)
    assert not stale.exists()
    assert not leftover.exists()
    assert set(entry_of(own, "soft").files) == {f"{STEM}.parquet"}


def test_complete_shard_has_nothing_to_say(small: SmallStore) -> None:
    assert all(why(small, artifact) is None for artifact in ("crops", "predictions", "soft"))


def test_why_incomplete_names_the_reason(own: SmallStore) -> None:
    file = own.layout.table("crops", STEM)
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    assert why(own) == f"{STEM}.parquet has {len(data) - 1} bytes instead of {len(data)}"
    file.unlink()
    assert why(own) == f"{STEM}.parquet is missing"
    assert why(own, key="0") == "parameters or inputs changed"
    own.layout.entry("crops", STEM).write_bytes(b"{")
    assert why(own, key="0") == "its entry is damaged"
    own.layout.entry("crops", STEM).unlink()
    assert why(own, key="0") == "not made yet"


def test_a_missing_chunk_makes_a_shard_incomplete(own: SmallStore) -> None:
    (own.layout.arrays("predictions", STEM) / "logp" / "c" / "1" / "0" / "0").unlink()
    assert why(own, "predictions") == f"{STEM}.zarr/logp/c/1/0/0 is missing"


def test_newer_format_is_refused_and_never_remade(own: SmallStore) -> None:
    path = own.layout.entry("crops", STEM)
    rewrite(path, lambda raw: raw.update(format_version=2, unknown_key=1))
    told = re.escape(f"{path} has format version 2, this software reads up to 1; upgrade")
    with pytest.raises(NewerFormatError, match=told):
        entries.read_entry(path)
    with pytest.raises(NewerFormatError, match=told):
        why(own, key="0")
    with pytest.raises(DataError, match=told):
        entries.write_manifest(own.layout, "crops")


def test_newer_manifest_is_refused(own: SmallStore) -> None:
    path = own.layout.manifest("crops")
    body = {"format_version": 2, "artifact": "crops", "entries": {}}
    text = json.dumps({**body, "sha256": sha256_json(body)}, indent=1) + "\n"
    path.write_text(text)
    with pytest.raises(DataError, match="format version 2"):
        entries.read_manifest(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.pop("files"),
        lambda raw: raw.pop("format_version"),
        lambda raw: raw.update(format_version="1"),
        lambda raw: raw.update(format_version=True),
        lambda raw: raw.update(format_version=0),
        lambda raw: raw.update(rows="12"),
        lambda raw: raw.update(rows=-1),
        lambda raw: raw.update(rows=True),
        lambda raw: raw.update(key=None),
        lambda raw: raw.update(lineage=[]),
        lambda raw: raw.update(files=[]),
        lambda raw: raw.update(files={"a": "b"}),
        lambda raw: raw.update(files={"a": {"num_bytes": 1}}),
        lambda raw: raw.update(files={"a": {"num_bytes": "1", "sha256": ""}}),
        lambda raw: raw.update(files={"../../a": {"num_bytes": 1, "sha256": ""}}),
        lambda raw: raw.update(files={"/a": {"num_bytes": 1, "sha256": ""}}),
        lambda raw: raw.update(files={"a\0b": {"num_bytes": 1, "sha256": ""}}),
        lambda raw: raw.update(files={"a//b": {"num_bytes": 1, "sha256": ""}}),
        lambda raw: raw.update(files={"a": {"num_bytes": -1, "sha256": ""}}),
        lambda raw: raw.update(stem="part-00001"),
    ],
)
def test_what_is_no_entry_is_refused(
    own: SmallStore, change: Callable[[dict[str, Any]], object]
) -> None:
    path = own.layout.entry("crops", STEM)
    rewrite(path, change)
    with pytest.raises(DataError, match=re.escape(str(path))):
        entries.read_entry(path)


def test_fields_of_a_later_version_are_kept_and_ignored(own: SmallStore) -> None:
    path = own.layout.entry("crops", STEM)
    before = entry_of(own)
    rewrite(path, lambda raw: raw.update(colour={"of": "the sky"}))
    entry = entry_of(own)
    assert replace(entry, unknown={}) == before
    assert entry.unknown == {"colour": {"of": "the sky"}}
    entries.publish(own.layout, entry)
    entries.write_manifest(own.layout, "crops")
    assert json.loads(path.read_bytes())["colour"] == {"of": "the sky"}
    assert entries.read_manifest(own.layout.manifest("crops"))[0] == entry_of(own) == entry


def test_entry_that_was_changed_is_refused_without_its_manifest(own: SmallStore) -> None:
    path = own.layout.entry("crops", STEM)
    data = path.read_bytes()
    for old, new in ((b'"num_crops": 4', b'"num_crops": 5'), (b'version": 1', b'version": 3')):
        assert old in data
        path.write_bytes(data.replace(old, new))
        with pytest.raises(DataError, match=r"own SHA-256; delete it and run `.*sample --shard 0`"):
            entry_of(own)
    assert why(own, key="0") == "its entry is damaged"


def test_entry_without_a_digest_is_read(own: SmallStore) -> None:
    """As the first stores had it."""
    path, before = own.layout.entry("crops", STEM), entry_of(own)
    raw = json.loads(path.read_bytes())
    del raw["sha256"]
    path.write_text(json.dumps(raw))
    assert entry_of(own) == before
    path.write_text(json.dumps({**raw, "sha257": "0"}))  # a flipped bit in the name
    with pytest.raises(DataError, match="own SHA-256"):
        entry_of(own)


def test_entry_of_another_artifact_is_refused(own: SmallStore) -> None:
    path = own.layout.entry("soft", STEM)
    path.write_bytes(own.layout.entry("crops", STEM).read_bytes())
    told = r"of crops, not of soft; delete .*compress --shard 0`"
    with pytest.raises(DataError, match=told):
        entries.list_entries(own.layout, "soft")
    with pytest.raises(DataError, match=told):
        entries.find_entry(own.layout, "soft", STEM)
    assert why(own, "soft", "0") == "its entry is damaged"


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"12", b'"text"'])
def test_what_is_no_json_is_refused(own: SmallStore, data: bytes) -> None:
    path, manifest = own.layout.entry("crops", STEM), own.layout.manifest("crops")
    path.write_bytes(data)
    manifest.write_bytes(data)
    with pytest.raises(DataError, match="run `ferkd-pipeline stage sample --shard 0` again"):
        entries.read_entry(path)
    with pytest.raises(DataError, match="run `ferkd-pipeline record`"):
        entries.read_manifest(manifest)


def test_missing_files_are_named(own: SmallStore) -> None:
    own.layout.entry("crops", STEM).unlink()
    own.layout.manifest("crops").unlink()
    with pytest.raises(DataError, match="is missing: that shard is not complete"):
        entry_of(own)
    with pytest.raises(DataError, match="is missing; run `ferkd-pipeline record`"):
        entries.read_manifest(own.layout.manifest("crops"))
    assert entries.find_entry(own.layout, "crops", STEM) is None


def test_manifest_holds_the_entries_sorted_and_its_own_digest(own: SmallStore) -> None:
    path = own.layout.manifest("crops")
    read = entries.read_manifest(path)
    assert read == entries.list_entries(own.layout, "crops")
    assert [entry.stem for entry in read] == ["part-00000", "part-00001"]
    raw = json.loads(path.read_bytes())
    assert list(raw)[-1] == "sha256"
    assert raw.pop("sha256") == sha256_json(raw)


def test_changed_manifest_is_refused_even_where_the_value_is_the_same(own: SmallStore) -> None:
    path = own.layout.manifest("crops")
    data = path.read_bytes()
    assert data.count(b"1e-05") == 2
    for wrong in (data.replace(b"sample", b"sampel", 1), data.replace(b"1e-05", b"1E-05", 1)):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match="its own SHA-256"):
            entries.read_manifest(path)


def test_manifest_is_written_once(own: SmallStore) -> None:
    path = own.layout.manifest("crops")
    before = path.stat()
    digest = entries.write_manifest(own.layout, "crops")
    assert path.stat().st_ino == before.st_ino
    assert digest == json.loads(path.read_bytes())["sha256"]
    path.unlink()
    assert entries.write_manifest(own.layout, "crops") == digest


def test_store_is_byte_identical_on_repeat(tmp_path: Path, small: SmallStore) -> None:
    other = tmp_path / "a place with another name" / "labels"
    build(other)
    assert files_of(other) == files_of(small.root)
    build(other)  # over itself
    assert files_of(other) == files_of(small.root)


def test_no_file_knows_where_or_by_whom_it_was_made(small: SmallStore) -> None:
    words = [str(small.root.parent), socket.gethostname(), str(Path.home())]
    for name, data in files_of(small.root).items():
        assert not any(len(word) > 3 and word.encode() in data for word in words), name
        assert not re.search(rb"20\d\d-\d\d-\d\d", data), name


def test_entry_says_where_it_came_from(small: SmallStore) -> None:
    entry = entry_of(small, "soft")
    assert entry.rows == 16
    assert entry.lineage["inputs"]["crops"] == entry_of(small).rows_digest
    assert {"numpy", "pyarrow", "zarr"} <= set(entry.software)
    assert entry.attribute("num_crops") == NUM_CROPS
    assert entry.remake == "ferkd-pipeline stage compress --shard 0"
    with pytest.raises(DataError, match="does not say its colour; run `ferkd-pipeline stage"):
        entry.attribute("colour")
    images = entries.read_entry(small.layout.entry("images", "images"))
    assert images.remake == "ferkd-pipeline stage index"
    assert set(images.files) == {"images.parquet", "classes.parquet"}


def test_withdrawn_shard_is_incomplete(own: SmallStore) -> None:
    key = entry_of(own).key
    entries.withdraw(own.layout, "crops", STEM)
    entries.withdraw(own.layout, "crops", STEM)
    assert why(own, key=key) == "not made yet"


def test_unpublished_entry_of_other_label_kind_has_another_digest(tmp_path: Path) -> None:
    small = build(tmp_path / "a" / "labels")
    other = build(tmp_path / "b" / "labels", replace(SPEC, k=3))
    assert entry_of(small, "soft").rows_digest != entry_of(other, "soft").rows_digest
    assert entry_of(small, "predictions") == entry_of(other, "predictions")
    shutil.rmtree(tmp_path)


def test_part_writer_publishes_under_the_names_of_the_layout(own: SmallStore) -> None:
    part = PartWriter(own.layout, "crops", "part-00007", "sample", "k")
    entry = part.publish_table(make_table(CROPS, crop_columns(own, 0)), {})
    assert entries.read_entry(own.layout.entry("crops", "part-00007")) == entry
    assert part.metadata(None)["attributes"] == {}

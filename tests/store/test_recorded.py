"""Files are compared with their entry before anything parses them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from store import entries, recorded, tables
from store.arrays import ArrayReader
from store.entry import FileRecord
from store.errors import DataError, RetryError
from store.soft_part import SoftPart
from tests.store.small_store import NAME, SmallStore, republish_with

NAMES = [
    "images/images.parquet",
    "images/classes.parquet",
    "rejects/index.parquet",
    "crops/part-00001.parquet",
    "predictions/_rejects-00001.parquet",
    "soft/part-00001.parquet",
    f"calibrated/{NAME}/part-00001.parquet",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_an_entry_beside_it(own: SmallStore, name: str) -> None:
    path = own.root / name
    recorded.check_file(path)
    path.write_bytes(path.read_bytes() + b"x")
    size = path.stat().st_size
    told = f"has {size} bytes instead of {size - 1}; delete it and run `ferkd-pipeline stage "
    with pytest.raises(DataError, match=told):
        recorded.check_file(path)
    path.unlink()
    with pytest.raises(DataError, match="is missing; run `ferkd-pipeline stage "):
        recorded.check_file(path)


def test_renamed_column_is_found_by_the_hash_alone(own: SmallStore) -> None:
    """A bit of the footer: Parquet's own checksums cover pages only."""
    path = own.layout.table("crops", "part-00001")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"left", b"lefu"))
    with pytest.raises(DataError, match="has other bytes than recorded"):
        recorded.check_file(path)


def test_another_parts_file_is_refused(own: SmallStore) -> None:
    one, other = (own.layout.table("crops", f"part-0000{i}") for i in (0, 1))
    shutil.copy(one, other)
    with pytest.raises(DataError, match=r"part-00001\.parquet has .*sample --shard 1`"):
        recorded.check_file(other)


def test_file_that_the_entry_does_not_list(own: SmallStore) -> None:
    path = own.root / "soft" / "part-00001.zarr"
    path.mkdir()
    with pytest.raises(DataError, match="is not listed in its entry; delete it"):
        recorded.check_file(path)


def test_nothing_is_said_without_an_entry(tmp_path: Path) -> None:
    recorded.check_file(tmp_path / "part-00000.parquet")
    assert recorded.entry_beside(tmp_path / "x" / "arrays.zarr") is None


def test_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert recorded.problem_of(tmp_path / "pipe", FileRecord(0, "")) == "is not a file"


def test_blocks_are_told(tmp_path: Path) -> None:
    path, told = tmp_path / "x", list[int]()
    path.write_bytes(bytes(3 << 20))
    assert recorded.problem_of(path, FileRecord(3 << 20, "0"), told.append) is not None
    assert told == [1 << 20] * 3


STEM = "part-00001"


def halve(small: SmallStore) -> None:
    """Publish labels again with other rows, as its stage does it."""
    rows = tables.read_table(small.layout.table("soft", STEM))
    republish_with(small, "soft", STEM, columns={"prob_1": tables.column(rows, "prob_1") / 2})


def between(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object], times: int = 1) -> None:
    """Let something happen to a store after its entry was read and before the file is hashed."""
    plain, left = recorded.problem_of, [None] * times

    def problem_of(*inputs: object) -> str | None:
        if left:
            left.pop()
            monkeypatch.setattr(recorded, "problem_of", plain)
            happen()
            monkeypatch.setattr(recorded, "problem_of", problem_of)
        return plain(*inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(recorded, "problem_of", problem_of)


def test_part_that_is_published_again_meanwhile_is_read(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own.layout.table("soft", STEM)
    before = tables.column(tables.read_table(path), "prob_1")
    between(monkeypatch, lambda: halve(own))
    np.testing.assert_array_equal(tables.column(tables.read_table(path), "prob_1"), before / 2)


def test_part_that_is_published_on_and_on_is_tried_again_later(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    between(monkeypatch, lambda: halve(own), times=9)
    with pytest.raises(RetryError, match=r"part-00001.parquet is being written by another"):
        tables.read_table(own.layout.table("soft", STEM))


def test_part_that_is_being_written_is_no_damage(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own.layout.table("soft", STEM)

    def begin() -> None:
        entries.withdraw(own.layout, "soft", STEM)
        path.write_bytes(b"new")

    between(monkeypatch, begin)
    with pytest.raises(RetryError, match="is being written by another process; try again"):
        recorded.check_file(path)


def test_chunks_of_a_part_that_was_published_again_are_no_damage(own: SmallStore) -> None:
    """Its first chunks were read: the rest may not be that of another part."""
    path = own.layout.arrays("predictions", STEM)
    reader = ArrayReader(path)
    entries.withdraw(own.layout, "predictions", STEM)
    (path / "logp" / "c" / "0" / "0" / "0").write_bytes(b"new")
    with pytest.raises(RetryError, match="is being written by another process; try again"):
        reader.read("logp", 0, 1)


def test_labels_are_read_of_the_entry_asked_for(own: SmallStore) -> None:
    entry = entries.read_entry(own.layout.entry("soft", STEM))
    halve(own)
    for read in (SoftPart.max_prob, SoftPart.scalars, SoftPart.sparse):
        with pytest.raises(RetryError, match="try again"):
            read(SoftPart(own.layout, entry))
    now = entries.read_entry(own.layout.entry("soft", STEM))
    assert len(SoftPart(own.layout, now).max_prob()) == now.rows


def test_part_that_changes_after_its_hash_is_noticed(own: SmallStore) -> None:
    entry = entries.read_entry(own.layout.entry("soft", STEM))
    with (
        pytest.raises(RetryError, match="try again"),
        recorded.planned(own.layout, entry),
    ):
        recorded.check_file(own.layout.table("soft", STEM))
        halve(own)
    path = own.layout.table("soft", STEM)
    with recorded.hashed_before():
        assert recorded.entry_beside(path) is None
    assert recorded.entry_beside(path) == entries.read_entry(own.layout.entry("soft", STEM))

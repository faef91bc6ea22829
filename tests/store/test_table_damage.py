"""Damaged Parquet files: in a store, where an entry knows their bytes, and outside of one."""

import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import tables
from store.errors import DataError
from tests.store.small_store import NAME, SmallStore

FILES = {
    "crops": "crops/part-00000.parquet",
    "soft": "soft/part-00001.parquet",
    "calibrated": f"calibrated/{NAME}/part-00000.parquet",
    "images": "images/images.parquet",
    "rejects": "predictions/_rejects-00001.parquet",
}


@pytest.fixture
def outside(small: SmallStore, tmp_path: Path) -> Callable[[str], Path]:
    """Gives a copy of a file outside of a store: no entry says which bytes it should have."""

    def copy(name: str) -> Path:
        return Path(shutil.copy(small.root / FILES[name], tmp_path / "copied.parquet"))

    return copy


@pytest.mark.parametrize("name", sorted(FILES))
def test_flipped_bits_of_pages_raise_or_change_nothing(
    outside: Callable[[str], Path], name: str
) -> None:
    path = outside(name)
    data, expected = path.read_bytes(), tables.read_table(path)
    footer = len(data) - 8 - int(struct.unpack("<I", data[-8:-4])[0])
    rng, num_found = np.random.default_rng(1), 0
    for place in rng.integers(0, footer, 120):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            assert tables.read_table(path).equals(expected), place
        except DataError as error:
            num_found += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
    assert num_found > 60  # the others hit page headers, in fields that no value depends on


@pytest.mark.parametrize("name", sorted(FILES))
def test_damaged_footers_raise_nothing_but_our_error(
    outside: Callable[[str], Path], name: str
) -> None:
    """What a flip in the footer does to values only the SHA-256 of the file can tell."""
    path = outside(name)
    data, names = path.read_bytes(), tables.read_table(path).column_names
    footer = len(data) - 8 - int(struct.unpack("<I", data[-8:-4])[0])
    rng, num_found = np.random.default_rng(2), 0
    for place in rng.integers(footer, len(data), 150):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            tables.read_table(path, names)
        except DataError as error:
            num_found += 1
            assert str(path) in str(error)
    assert num_found > 20


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_flip_in_a_store_is_refused_before_parsing(own: SmallStore, name: str) -> None:
    """Pages, their headers, footer and magic bytes alike: the entry has the file's SHA-256."""
    path = own.root / FILES[name]
    data, expected = path.read_bytes(), tables.read_table(path)
    footer = len(data) - 8 - int(struct.unpack("<I", data[-8:-4])[0])
    rng = np.random.default_rng(3)
    places = [*rng.integers(0, footer, 60), *rng.integers(footer, len(data), 60), 0, len(data) - 1]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        for read in (tables.read_table, tables.open_table):
            with pytest.raises(DataError, match="has other bytes than recorded") as raised:
                read(path)
            assert str(path) in str(raised.value), place
    path.write_bytes(data)
    assert tables.read_table(path).equals(expected)


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_truncated_file_is_damaged(
    own: SmallStore, outside: Callable[[str], Path], size: int
) -> None:
    path = outside("crops")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"is damaged .*delete it and run its stage again"):
        tables.read_table(path)
    shutil.copy(path, own.root / FILES["crops"])
    with pytest.raises(DataError, match=r"has \d+ bytes instead of \d+; delete it and run `"):
        tables.read_table(own.root / FILES["crops"])


def test_missing_file_column_and_metadata_are_told(
    own: SmallStore, outside: Callable[[str], Path]
) -> None:
    path = own.layout.table("crops", "part-00000")
    with pytest.raises(DataError, match=re.escape(f"{path} is damaged")):
        tables.read_table(path, ["image_id", "colour"])
    foreign = own.root / "foreign.parquet"
    pq.write_table(pa.table({"image_id": [1]}), foreign)
    with pytest.raises(DataError, match="it has no `ferkd` metadata"):
        tables.read_table(foreign)
    path.unlink()
    with pytest.raises(DataError, match="is missing; run `ferkd-pipeline stage sample --shard 0`"):
        tables.read_table(path)
    copied = outside("crops")
    copied.unlink()
    with pytest.raises(DataError, match="is missing; run the stage"):
        tables.read_table(copied)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"format_version":2}', "has format version 2, this software reads up to 1"),
        (b'{"format_version":"1"}', "does not say its format version"),
        (b'{"format_version"', "is damaged"),
        (b"[]", "no `ferkd` metadata"),
        (b"\xff", "is damaged"),
        (b"17", "is damaged"),
    ],
)
def test_metadata_that_is_not_ours_is_refused(tmp_path: Path, text: bytes, told: str) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({b"ferkd": text}), path)
    with pytest.raises(DataError, match=told):
        tables.read_table(path)


def test_an_error_of_the_disk_is_not_called_damage(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr("store.tables.pq.read_table", fail)
    with pytest.raises(PermissionError):
        tables.read_table(own.layout.table("crops", "part-00000"))

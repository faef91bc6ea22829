"""What statistics say of calibrations and labels that do not fit, are missing or damaged."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from store import entries
from store.errors import DataError, ParamsError
from tests.store.inspection.worlds import stats
from tests.store.small_store import NAME, SPEC, SmallStore, build, record_bytes


def test_an_unknown_calibration_is_named(small: SmallStore) -> None:
    with pytest.raises(ParamsError, match=r"^calibration mixt: .*; it has mixed$"):
        stats(small.root, "mixt")


def test_a_calibration_of_other_labels_is_refused(own: SmallStore, tmp_path: Path) -> None:
    other = build(tmp_path / "other" / "labels", replace(SPEC, k=1))
    for entry in entries.list_entries(other.layout, "soft"):
        for name in (f"_{entry.stem}.json", *entry.files):
            target = own.layout.folder("soft") / name
            target.write_bytes((other.layout.folder("soft") / name).read_bytes())
    with pytest.raises(DataError, match="made from other soft"):
        stats(own.root, NAME)


def test_no_labels(tmp_path: Path, own: SmallStore) -> None:
    for path in own.layout.folder("soft").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"holds no labels; run .*stage compress"):
        stats(own.root)


def test_damage_is_told(own: SmallStore) -> None:
    """By the entry, and where that agrees by the checksum of the page."""
    path = own.layout.table("soft", "part-00001")
    data = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(6)
    assert chunk.path_in_schema == "prob_0"
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 8
    path.write_bytes(data)
    told = r"part-00001.parquet has other bytes than recorded .*stage compress --shard 1"
    with pytest.raises(DataError, match=told):
        stats(own.root)
    record_bytes(path)
    with pytest.raises(DataError, match=r"part-00001.parquet is damaged .*CRC"):
        stats(own.root)

"""Verify finds files in another's place, and those of a newer version of this software."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from store import entries
from store.arrays import ArrayReader
from store.digest import sha256_json
from store.entry import entry_bytes, parse_entry
from store.errors import DataError
from store.schema import CROPS
from store.tables import make_table
from tests.store.check.found import STEM, damages, kinds
from tests.store.small_store import NAME, SmallStore, build, crop_columns, publish_rows


def test_swapped_files_are_found(own: SmallStore) -> None:
    one, other = (own.layout.table("crops", f"part-0000{i}") for i in (0, 1))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert {name for name, _ in kinds(own)} == {
        "crops/part-00000.parquet",
        "crops/part-00001.parquet",
    }


def test_swapped_entries_are_found(own: SmallStore) -> None:
    one, other = (own.layout.entry("crops", f"part-0000{i}") for i in (0, 1))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert kinds(own) == {
        ("crops/_part-00000.json", "damaged entry: is the entry of part-00001"),
        ("crops/_part-00001.json", "damaged entry: is the entry of part-00000"),
    }


def change_entry(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what an entry says, as a writer would: with its digest."""
    raw = json.loads(path.read_bytes())
    del raw["sha256"]
    change(raw)
    entry = parse_entry(raw, path)
    path.write_bytes(entry_bytes(entry))


def test_file_of_another_part_under_a_right_entry_is_told(own: SmallStore) -> None:
    """Swapped, and its entry made to fit: the file itself says what it is."""
    one, other = (own.layout.table("crops", f"part-0000{i}") for i in (0, 1))
    one.write_bytes(other.read_bytes())
    record = {one.name: asdict(entries.file_records(one.parent, [one])[one.name])}
    change_entry(own.layout.entry("crops", "part-00000"), lambda raw: raw.update(files=record))
    entries.write_manifest(own.layout, "crops")
    kind = "it is a file of another part: its entry has another key, lineage"
    assert kinds(own) == {("crops/part-00000.parquet", kind)}


def test_swapped_zarr_shards_are_found_and_not_read(own: SmallStore) -> None:
    """Chunks carry checksums, but a whole one in another's place passes them."""
    folder = own.layout.arrays("predictions", "part-00000") / "logp" / "c"
    one, other = folder / "0" / "0" / "0", folder / "1" / "0" / "0"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert len(kinds(own)) == 2
    reader = ArrayReader(own.layout.arrays("predictions", "part-00000"))
    with pytest.raises(DataError, match=r"run `ferkd-pipeline stage infer --shard 0` again"):
        reader.read("logp", 0, 1)
    reader.read("target_logp", 0, 4)


def test_whole_parts_of_another_store_are_found(own: SmallStore, tmp_path: Path) -> None:
    """Of the same shape, entry and all: only what it was made from tells."""
    other = build(tmp_path / "other" / "labels", seed=5)
    for name in (f"_{STEM}.json", f"{STEM}.parquet"):
        shutil.copy(other.root / "crops" / name, own.root / "crops" / name)
    assert (f"crops/_{STEM}.json", "entry is not the recorded one") in kinds(own)
    entries.write_manifest(own.layout, "crops")
    assert (f"soft/_{STEM}.json", "made from other crops") in kinds(own)


def newer_json(path: Path) -> None:
    raw = json.loads(path.read_bytes())
    raw.pop("sha256")
    raw["format_version"] = 2
    path.write_text(json.dumps({**raw, "sha256": sha256_json(raw)}))


@pytest.mark.parametrize(
    "name", [f"crops/_{STEM}.json", "crops/_manifest.json", f"calibrated/{NAME}/_fit.json"]
)
def test_newer_json_asks_for_an_upgrade(own: SmallStore, name: str) -> None:
    newer_json(own.root / name)
    found = [damage for damage in damages(own.root) if damage.file == str(own.root / name)]
    assert found
    assert all(d.remedy == "upgrade ferkd-pipeline" for d in found)


def test_newer_table_and_arrays_ask_for_an_upgrade(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.tables.FORMAT_VERSION", 2)
    rows = make_table(CROPS, crop_columns(own, 1))
    inputs = entries.read_entry(own.layout.entry("crops", STEM)).lineage["inputs"]
    publish_rows(own.layout, "crops", STEM, "sample", inputs, rows)
    entries.write_manifest(own.layout, "crops")
    (damage,) = [d for d in damages(own.root) if "crops/part" in d.file]
    assert "format version 2" in damage.kind
    assert damage.remedy == "upgrade ferkd-pipeline"

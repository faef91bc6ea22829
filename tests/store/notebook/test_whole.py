"""A dataset of one artifact and a stream of joined rows, over all shards."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from store import entries, scan, tables
from store.codecs import Kind
from store.entry import NewerFormatError
from store.errors import DataError, ParamsError
from store.notebook.label_store import LabelStore
from tests.store.small_store import (
    NAME,
    NUM_CROPS,
    NUM_IMAGES,
    SPEC,
    SmallStore,
    build,
    crop_columns,
    rewrite_table,
)

NUM_ROWS = NUM_IMAGES * NUM_CROPS


def test_dataset_has_the_parts_that_entries_list(own: SmallStore) -> None:
    opened = LabelStore(own.root)
    assert opened.dataset("images").count_rows() == NUM_IMAGES
    assert opened.dataset("rejects").to_table().column("path").to_pylist() == ["klasse 0/leer.jpg"]
    shutil.copy(own.layout.table("soft", "part-00000"), own.layout.table("soft", "part-00007"))
    with pytest.raises(DataError, match=r"part-00007.parquet has no entry.*compress --shard 7"):
        opened.dataset()
    own.layout.table("soft", "part-00007").unlink()
    assert opened.dataset().count_rows() == NUM_ROWS
    own.layout.entry("soft", "part-00001").unlink()
    with pytest.raises(DataError, match=r"_part-00001.json is missing.*compress --shard 1"):
        opened.dataset()


def test_dataset_refuses_other_bytes(own: SmallStore) -> None:
    """Also those that no page checksum covers, and those of another part."""
    opened = LabelStore(own.root)
    first, second = (own.layout.table("soft", f"part-0000{n}") for n in (0, 1))
    assert opened.dataset().count_rows() == NUM_ROWS
    data = second.read_bytes()
    footer = bytearray(data)
    footer[len(data) - 30] ^= 1
    for wrong in (first.read_bytes(), bytes(footer), data[:-1]):
        second.write_bytes(wrong)
        with pytest.raises(DataError, match=r"part-00001.parquet has .*run `ferkd-pipeline stage"):
            opened.dataset()
    second.unlink()
    with pytest.raises(DataError, match=r"part-00001.parquet is missing"):
        opened.dataset()
    second.write_bytes(data)
    assert opened.dataset().count_rows() == NUM_ROWS


def test_dataset_refuses_a_newer_version(own: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entries.read_entry(own.layout.entry("soft", "part-00001"))
    path = own.layout.table("soft", "part-00001")
    with monkeypatch.context() as patch:
        patch.setattr(tables, "FORMAT_VERSION", 2)
        table = tables.read_table(path).replace_schema_metadata(None)
        tables.write_table(path, table, {})
    files = entries.file_records(path.parent, [path])
    entries.publish(own.layout, replace(entry, files=files))
    with pytest.raises(NewerFormatError, match=r"part-00001.parquet has format version 2"):
        LabelStore(own.root).dataset()
    entries.publish(own.layout, replace(entry, format_version=2))
    with pytest.raises(NewerFormatError, match=r"_part-00001.json has format version 2"):
        LabelStore(own.root).dataset()


def test_dataset_hashes_a_file_once(own: SmallStore, hashed: list[Path]) -> None:
    opened = LabelStore(own.root)
    opened.dataset()
    both = [own.layout.table("soft", f"part-0000{n}") for n in (0, 1)]
    assert sorted(hashed) == both
    opened.dataset()
    assert len(hashed) == 2
    os.utime(both[1], ns=(0, 0))
    opened.dataset()
    assert hashed[2:] == both[1:]


@pytest.mark.parametrize("kind", ["marginal_smoothing", "full"])
def test_stream_has_the_rows_of_labels(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "BLOCK_ROWS", 3 * NUM_CROPS)  # blocks do not divide a shard
    built = build(tmp_path / "labels", replace(SPEC, kind=kind))
    opened = LabelStore(built.root)
    whole = opened.labels(calibration=NAME, arrow=True)
    reader = opened.batches(NAME)
    assert reader.schema.equals(whole.schema)
    batches = list(reader)
    assert [batch.num_rows for batch in batches] == [3 * NUM_CROPS, NUM_CROPS] * 2
    assert pa.Table.from_batches(batches).to_pylist() == whole.to_pylist()
    for names in (
        ["target_name"],
        ["action_name", "top"],
        ["path", "crop"],
        ["max_prob" if kind == "full" else "prob_0", "image_id"],
        ["teacher_weight"],
    ):
        found = opened.batches(NAME, columns=names).read_all()
        assert found.column_names == names
        assert found.to_pylist() == whole.select(names).to_pylist()


def test_stream_reads_only_what_is_asked_for(
    small: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = LabelStore(small.root)
    reader = opened.batches(NAME, columns=["prob_1", "target_name"])
    read: list[tuple[str, list[str]]] = []
    original = scan.RowReader.__init__

    def spy(self: scan.RowReader, path: Path, columns: list[str]) -> None:
        read.append((path.parent.name, columns))
        original(self, path, columns)

    monkeypatch.setattr(scan.RowReader, "__init__", spy)
    assert reader.read_all().num_rows == NUM_ROWS
    assert read == [("soft", ["image_id", "crop", "target", "prob_1"])] * 2


def test_stream_refuses_what_does_not_fit(own: SmallStore) -> None:
    opened = LabelStore(own.root)
    with pytest.raises(ParamsError, match=r"columns has 'nope': .* they have image_id, crop, path"):
        opened.batches(columns=["prob_0", "nope"])
    with pytest.raises(ParamsError, match=r"columns has 'action_name'"):
        opened.batches(columns=["action_name"])
    columns = crop_columns(own, 1)
    rows = tables.read_table(own.layout.table("crops", "part-00001"))
    for wrong, said in (
        ({name: values[4:] for name, values in columns.items()}, "its entry tells of"),
        ({**columns, "crop": columns["crop"][::-1]}, "has other rows .*store verify"),
    ):
        rewrite_table(own.layout, "crops", "part-00001", tables.make_table(rows.schema, wrong))
        reader = opened.batches(columns=["top", "prob_0"])
        with pytest.raises(DataError, match=said):
            reader.read_all()


def test_queries_push_columns_and_filters_down(small: SmallStore) -> None:
    dataset = LabelStore(small.root).dataset("crops")
    found = dataset.to_table(columns=["top"], filter=ds.field("image_id") == 5)
    np.testing.assert_array_equal(tables.column(found, "top"), small.boxes[5, :, 0])

"""What the store for notebooks says of parts that are damaged, missing or of other crops."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from store import entries, tables
from store.errors import DataError, ParamsError
from store.notebook.label_store import LabelStore
from store.schema import CROPS
from tests.store.small_store import (
    NAME,
    NUM_CLASSES,
    NUM_CROPS,
    NUM_IMAGES,
    SmallStore,
    crop_columns,
    record_bytes,
    rewrite_table,
)


def test_labels_of_other_crops_are_refused(own: SmallStore) -> None:
    opened = LabelStore(own.root)
    remade = {"soft": "compress --shard 0", f"calibrated/{NAME}": "calibrate"}
    for artifact, other in (("soft", "crops"), (f"calibrated/{NAME}", "soft")):
        told = f"made from other {other} than .*stage {remade[artifact]}`"
        entry = entries.read_entry(own.layout.entry(artifact, "part-00000"))
        inputs = {**entry.lineage["inputs"], other: "0" * 32}
        entries.publish(own.layout, replace(entry, lineage={**entry.lineage, "inputs": inputs}))
        with pytest.raises(DataError, match=told):
            opened.labels(0, NAME)
        with pytest.raises(DataError, match=f"made from other {other} than"):
            opened.image(0, NAME)
        entries.publish(own.layout, entry)
    assert len(opened.labels(0, NAME)) == NUM_IMAGES * NUM_CROPS / 2


def test_a_damaged_part_is_refused(own: SmallStore) -> None:
    path = own.layout.table("soft", "part-00000")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    opened = LabelStore(own.root)
    reads: list[Callable[[int], object]] = [opened.labels, opened.soft, opened.image]
    for read in reads:
        with pytest.raises(DataError, match=r"part-00000.parquet has other bytes than recorded"):
            read(0)
    path.write_bytes(b"PAR1")
    for read in reads:
        with pytest.raises(DataError, match=r"part-00000.parquet has 4 bytes instead of"):
            read(0)
    path.unlink()
    with pytest.raises(DataError, match=r"part-00000.parquet is missing"):
        opened.image(0)


def test_datasets_and_single_images_verify_checksums(own: SmallStore) -> None:
    """Of pages: the entry agrees with what is damaged."""
    path = own.layout.table("crops", "part-00000")
    data = path.read_bytes()
    silent = []
    for place in range(40, 200):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with contextlib.suppress(OSError, pa.ArrowException):
            ds.dataset(path).to_table()
            silent.append(place)
    opened = LabelStore(own.root)
    found = {"dataset": 0, "image": 0}
    for place in silent:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        record_bytes(path)
        try:
            opened.dataset("crops").to_table()
        except OSError as error:
            found["dataset"] += "CRC" in str(error)
        try:
            opened.image(0)
        except DataError as error:
            found["image"] += "CRC" in str(error)
    # The others are in the headers of pages, which hold no values.
    assert min(found.values()) > len(silent) / 2


def test_rows_that_do_not_match_are_not_joined(own: SmallStore) -> None:
    columns = crop_columns(own, 1)
    shorter = {name: values[4:] for name, values in columns.items()}
    moved = {**columns, "crop": columns["crop"][::-1]}
    for wrong, said in ((shorter, "its entry tells of"), (moved, "has other rows than .* verify")):
        rewrite_table(own.layout, "crops", "part-00001", tables.make_table(CROPS, wrong))
        with pytest.raises(DataError, match=said):
            LabelStore(own.root).labels(1)


def test_missing_tables_say_why(own: SmallStore, full: SmallStore) -> None:
    opened = LabelStore(own.root)
    with pytest.raises(DataError, match=r"has no shard 9: its shards are 0 to 1"):
        opened.soft(9)
    own.layout.entry("soft", "part-00001").unlink()
    with pytest.raises(DataError, match=r"missing; run `ferkd-pipeline stage compress --shard 1`"):
        opened.labels(1)
    known = "images, rejects, crops, predictions, soft, scores, calibrated/mixed"
    for read in (lambda: opened.dataset("guesses"), lambda: opened.arrays("guesses", 0)):
        with pytest.raises(ParamsError, match=f"no artifact 'guesses'; there are {known}$"):
            read()
    with pytest.raises(DataError, match=r"no calibration 'x' \(there: mixed\)"):
        opened.dataset("calibrated/x")
    with pytest.raises(ParamsError, match=r"without shards; read it with .*dataset\('rejects'\)"):
        opened.arrays("rejects", 0)
    shutil.rmtree(own.layout.folder("rejects"))
    with pytest.raises(DataError, match=r"rejects holds no Parquet parts; .*stage index`"):
        opened.dataset("rejects")
    with pytest.raises(ParamsError, match="is not a plain folder name"):
        opened.calibration(0, "../soft")
    with pytest.raises(DataError, match=r"is a table, not a Zarr store; .*store.soft\(0\)"):
        opened.arrays("soft", 0)
    with pytest.raises(DataError, match=r"Zarr stores: store.arrays\('soft', shard\)"):
        LabelStore(full.root).dataset()
    nothing = LabelStore(own.root.parent / "nothing")
    reads: list[Callable[[], object]] = [
        nothing.images,
        nothing.labels,
        nothing.batches,
        nothing.dataset,
        lambda: nothing.image(0),
    ]
    for read in reads:
        with pytest.raises(DataError, match="holds no label store; give the path of one"):
            read()
    with pytest.raises(DataError, match="holds no labels; run `ferkd-pipeline stage compress`"):
        nothing.max_prob_counts()
    shutil.rmtree(own.layout.folder("crops"))
    for read in (opened.batches, lambda: opened.image(0)):
        with pytest.raises(DataError, match=r"crops/_part-00000.json is missing; .*stage sample"):
            read()


def test_labels_of_other_images_are_refused(own: SmallStore) -> None:
    """Images that were listed again have other ids: paths would move without a word."""
    opened = LabelStore(own.root)
    assert opened.image(0)["path"].nunique() == 1
    moved = ["klasse 0/neu.jpg", *own.table.paths.tolist()[:-1]]
    _list_again(own, "path", moved)
    reads: list[Callable[[], object]] = [
        lambda: opened.labels(1),
        opened.labels,
        opened.batches,
        lambda: opened.image(5),
        lambda: opened.image("klasse 0/neu.jpg"),
    ]
    for store in (opened, LabelStore(own.root)):
        assert store.images()["path"].tolist() == moved
    for read in reads:
        with pytest.raises(DataError, match=r"made from other images than .*stage sample --shard"):
            read()


def _list_again(own: SmallStore, name: str, values: list[Any]) -> None:
    """Put other values into a column of the images, as indexing them again would."""
    table = tables.read_table(own.layout.table("images", "images")).replace_schema_metadata(None)
    place = table.column_names.index(name)
    column = pa.array(values, table.schema.field(name).type)
    rewrite_table(own.layout, "images", "images", table.set_column(place, name, column))


def test_labels_of_other_targets_are_refused(own: SmallStore) -> None:
    ids = own.table.class_ids.tolist()
    _list_again(own, "class_id", [*ids[:-1], (ids[-1] + 1) % NUM_CLASSES])
    opened = LabelStore(own.root)
    assert len(opened.labels(0)) == NUM_IMAGES * NUM_CROPS / 2
    with pytest.raises(DataError, match=r"made from other targets .*stage compress --shard 1"):
        opened.labels(1)


@pytest.mark.parametrize(
    ("artifact", "name"), [("crops", "images"), ("soft", "crops"), (f"calibrated/{NAME}", "soft")]
)
def test_parts_that_do_not_say_what_they_were_made_from_are_refused(
    own: SmallStore, artifact: str, name: str
) -> None:
    entry = entries.read_entry(own.layout.entry(artifact, "part-00001"))
    inputs = {each: digest for each, digest in entry.lineage["inputs"].items() if each != name}
    entries.publish(own.layout, replace(entry, lineage={**entry.lineage, "inputs": inputs}))
    with pytest.raises(DataError, match=f"made from other {name} than"):
        LabelStore(own.root).labels(1, NAME)

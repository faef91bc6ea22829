"""What reads a whole store says where a shard is missing, or is of other images."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from store import entries, recorded
from store.errors import DataError
from store.inspection.selection import Selection
from tests.store import small_store
from tests.store.inspection.exported import expected, same, written
from tests.store.inspection.worlds import stats
from tests.store.small_store import NAME, NUM_CROPS, SmallStore, build, republish_with

READERS: dict[str, Callable[[SmallStore, Path], object]] = {
    "stats": lambda store, out: stats(store.root),
    "export": lambda store, out: written(store, out),
    "export of a shard": lambda store, out: written(store, out, Selection(shards=(2,))),
    "export of an image": lambda store, out: written(store, out, Selection(image_ids=(2,))),
    "export of crops": lambda store, out: written(store, out, artifact="crops"),
}


@pytest.fixture
def four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """A store of 4 shards."""
    monkeypatch.setattr(small_store, "NUM_SHARDS", 4)
    return build(tmp_path / "four" / "labels")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("shards", "told"),
    [
        ((2,), r"soft/_part-00002.json: shard 2 of 4 is .*stage compress --shard 2` first"),
        ((3,), r"soft/_part-00003.json: shard 3 of 4 is .*stage compress --shard 3` first"),
        ((0, 3), r"soft: shards 0, 3 are missing \(2 of 4\): .*stage compress` first"),
    ],
)
def test_missing_labels_are_named(
    read: Any, shards: tuple[int, ...], told: str, four: SmallStore, tmp_path: Path
) -> None:
    for shard in shards:
        entries.withdraw(four.layout, "soft", f"part-{shard:05d}")
    with pytest.raises(DataError, match=told):
        read(four, tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_shard_that_crops_lack_too_is_named(read: Any, four: SmallStore, tmp_path: Path) -> None:
    for artifact in ("crops", "soft", "predictions"):
        entries.withdraw(four.layout, artifact, "part-00003")
    with pytest.raises(DataError, match=r"shard 3 of 4 is missing.*stage sample --shard 3"):
        read(four, tmp_path / "x.parquet")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_labels_of_other_images_are_refused(read: Any, four: SmallStore, tmp_path: Path) -> None:
    """An image that was added moves the ids of all later ones: paths must not shift."""
    table = four.table
    paths = [*table.paths[:3], "klasse 1/zz-new.jpg", *table.paths[3:-1]]
    moved = replace(four, table=replace_paths(table, paths))
    small_store._write_images(moved)
    with pytest.raises(DataError, match=r"crops/_part-00001.json was made from other images"):
        read(four, tmp_path / "x.parquet")


def replace_paths(table: Any, paths: list[str]) -> Any:
    return type(table)(
        np.array(paths, dtype=object),
        table.class_ids,
        table.heights,
        table.widths,
        table.content_hashes,
        table.class_names,
    )


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_labels_of_other_targets_are_refused(read: Any, four: SmallStore, tmp_path: Path) -> None:
    four.table.class_ids[5] = (four.table.class_ids[5] + 1) % 5
    small_store._write_images(four)
    with pytest.raises(DataError, match=r"soft/_part-00002.json was made from other targets"):
        read(four, tmp_path / "x.parquet")


def test_a_shard_of_another_number_of_shards_is_refused(four: SmallStore) -> None:
    for path in four.layout.folder("soft").glob("*part-00003*"):
        name = path.name.replace("00003", "00007")
        if path.suffix == ".parquet":
            shutil.copy(path, path.with_name(name))
    entry = entries.read_entry(four.layout.entry("soft", "part-00003"))
    files = {name.replace("00003", "00007"): record for name, record in entry.files.items()}
    entries.publish(four.layout, replace(entry, stem="part-00007", files=files))
    with pytest.raises(DataError, match=r"_part-00007.json: a part of another number of shards"):
        stats(four.root)


def test_rows_of_images_of_another_shard_are_refused(four: SmallStore, tmp_path: Path) -> None:
    for artifact in ("crops", "soft"):
        ids = np.repeat(np.array([0, 1], np.int32), NUM_CROPS)
        entry = republish_with(four, artifact, "part-00002", columns={"image_id": ids})
        if artifact == "crops":
            republish_with(four, "soft", "part-00002", inputs={"crops": entry.rows_digest})
    with pytest.raises(DataError, match=r"part-00002 has other images than 4 to 5"):
        written(four, tmp_path / "x.parquet")


def test_every_file_is_hashed_once(
    four: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    check = recorded.check_named

    def counted(entry: Any, folder: Path, name: str) -> None:
        opened.append(f"{folder.name}/{name}")
        check(entry, folder, name)

    monkeypatch.setattr(recorded, "check_named", counted)
    found = written(four, tmp_path / "x.parquet", calibration=NAME)
    assert same(found, expected(four, NAME))
    shards = [name for name in opened if "part-" in name]
    assert len(shards) == len(set(shards)) == 3 * 4
    opened.clear()
    one = written(four, tmp_path / "y.parquet", Selection(shards=(3,)))
    assert [name for name in opened if "part-" in name] == [
        "soft/part-00003.parquet",
        "crops/part-00003.parquet",
    ]
    assert isinstance(one, pd.DataFrame) and set(one["image_id"]) == {6, 7}

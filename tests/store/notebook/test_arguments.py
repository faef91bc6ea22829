"""What people type wrongly in a notebook, and shards that do not go together."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from store.errors import DataError, ParamsError
from store.notebook import arguments
from store.notebook.label_store import LabelStore
from tests.store.small_store import NUM_CROPS, SPEC, SmallStore, build


@pytest.mark.parametrize("wrong", ["3", 3.0, [0, 1], True, np.True_, b"1"], ids=repr)
def test_a_shard_is_a_number(small: SmallStore, wrong: Any) -> None:
    opened = LabelStore(small.root)
    reads: list[Callable[[Any], object]] = [
        opened.labels, opened.soft, opened.crops, opened.calibration, opened.predictions,
    ]  # fmt: skip
    for read in reads:
        with pytest.raises(ParamsError, match=r"^shard is .*, allowed: the number of one shard.*$"):
            read(wrong)
    one: Any = np.int32(1)
    assert len(opened.labels(one)) == len(opened.labels(1))


def test_an_image_is_an_id_or_a_path(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    for wrong in (1.5, True, None, [0]):
        with pytest.raises(ParamsError, match=r"^image is .*, allowed: an id, such as 0, or a"):
            opened.image(wrong)  # type: ignore[arg-type]
    path: Any = PurePosixPath(str(small.table.paths[3]))
    assert opened.image(path)["image_id"].tolist() == [3] * NUM_CROPS


def test_rows_and_numbers_of_classes(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    first: Any = opened.image(0)
    for wrong in (first["path"], True, None, "labels", 1.0):
        for read in (opened.decode, opened.top):
            with pytest.raises(ParamsError, match=r"^rows are a .*, allowed: a table of store.lab"):
                read(wrong)
    for num in (-1, 0):
        with pytest.raises(ParamsError, match=f"^num is {num}, allowed: at least 1"):
            opened.top(first, num)
        with pytest.raises(ParamsError, match=f"^num_bins is {num}, allowed: at least 1"):
            opened.max_prob_counts(num)
    with pytest.raises(ParamsError, match=r"^num is 2.5 \(float\), allowed: a whole number"):
        opened.top(first, 2.5)  # type: ignore[arg-type]


def test_sizes_and_crops_of_a_picture(small: SmallStore) -> None:
    assert arguments.size(64) == (64, 64)
    assert arguments.size([3, np.int64(4)]) == (3, 4)
    opened = LabelStore(small.root)
    wrong: list[Any] = [(0, 5), 0, -1, (5,), (1, 2, 3), "64", (2.0, 3), True, (5, 10**6)]
    for size in wrong:
        with pytest.raises(ParamsError, match=r"^size is .*, allowed: \(height, width\) or one"):
            opened.show(0, size=size)
    wrong = ["abc", 2.5, True, [0.0], [True], None]
    for crops in wrong:
        with pytest.raises(ParamsError, match=r"^crops is .*, allowed: how many, such as 5, or"):
            opened.show(0, crops=crops)


def test_names_are_text(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    wrong: Any = 3
    reads: list[Callable[[], object]] = [
        lambda: opened.labels(0, wrong),
        lambda: opened.calibration(0, wrong),
    ]
    for read in reads:
        with pytest.raises(ParamsError, match=r"^calibration is 3, allowed: a name"):
            read()
    with pytest.raises(ParamsError, match="there is no artifact 3"):
        opened.dataset(wrong)


def test_no_store_has_no_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no label store; give the path of one"):
        _ = LabelStore(tmp_path / "data").shards


def test_shards_of_different_columns_are_named(own: SmallStore, tmp_path: Path) -> None:
    other = build(tmp_path / "other/labels", replace(SPEC, k=3))
    for path in (other.layout.table, other.layout.entry):
        source = path("soft", "part-00001")
        shutil.copy(source, own.layout.folder("soft") / source.name)
    opened = LabelStore(own.root)
    said = (
        r"^\S*soft/part-00001 has other columns than \S*soft/part-00000 \(class_2 is int32, not "
        r"missing\): .*; run `ferkd-pipeline stage compress`$"
    )
    for read in (opened.soft, opened.labels):
        with pytest.raises(DataError, match=said):
            read()
    said = r"part-00001 has other labels than \S*part-00000: .*`ferkd-pipeline stage compress`$"
    for whole in (opened.batches, opened.dataset):
        with pytest.raises(DataError, match=said):
            whole()
    with pytest.raises(DataError, match=r"these rows have class_2, .* keep 2 classes: .*compress`"):
        opened.decode(1)
    assert len(opened.decode(0)) == len(opened.soft(0))

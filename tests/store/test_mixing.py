"""What a table may say of mixing, and what of it is a contract."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from store import mixing, schema
from store.batch import RecordedMix
from store.errors import DataError
from store.mixing import MixKind
from store.tables import make_table

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
NUM_IMAGES = 4
IDS = np.array([0, 0, 1])


def some() -> RecordedMix:
    """A crop that is not mixed, one of Mixup, one of CutMix."""
    return RecordedMix(
        np.array([0, 1, 2], np.uint8),
        np.array([1, 0.25, 0.5], np.float32),
        np.array([-1, 3, 0], np.int32),
        np.array([[0, 0, 0, 0], [-4, 2, 9, 8], [1, 0, 1, 1]], np.int32),
        np.array([False, True, False]),
        np.array([[0, 0, 0, 0], [0, 0, 0, 0], [128, 0, 128, 256]], np.int16),
    )


def changed(name: str, row: int, value: Any) -> RecordedMix:
    mix = some()
    getattr(mix, name)[row] = value
    return mix


def test_numbers_never_change() -> None:
    assert {kind.name: int(kind) for kind in MixKind} == {"NONE": 0, "MIXUP": 1, "CUTMIX": 2}
    assert (mixing.SHARE_GRID, mixing.CUT_GRID) == (1024, 256)


def test_the_format_page_lists_every_kind_and_column() -> None:
    section = FORMAT.read_text(encoding="utf-8").split("## Recorded mixing")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (\w+)", section, re.MULTILINE)
    assert [(int(code), name.upper()) for code, name in rows] == [
        (int(kind), "NOT" if kind == MixKind.NONE else kind.name) for kind in MixKind
    ]
    for name in mixing.column_names():
        assert f"`{name}`" in section


def test_what_is_allowed() -> None:
    assert mixing.what_is_wrong(some(), IDS, NUM_IMAGES) is None
    assert mixing.what_is_wrong(changed("shares", 1, 0), IDS, NUM_IMAGES) is None
    assert mixing.what_is_wrong(changed("shares", 1, 1), IDS, NUM_IMAGES) is None


@pytest.mark.parametrize(
    ("name", "row", "value", "wrong"),
    [
        ("kinds", 1, 3, "the kind of mixing 3"),
        ("partner_ids", 1, NUM_IMAGES, "a partner that is no image of the store"),
        ("partner_ids", 2, -1, "a partner that is no image of the store"),
        ("partner_ids", 2, 1, "a crop that is mixed with its own image"),
        ("boxes", 1, [0, 0, 0, 8], "a partner's box without a pixel"),
        ("shares", 1, 1.25, "a share that is not 0 to 1"),
        ("shares", 1, -0.25, "a share that is not 0 to 1"),
        ("shares", 1, np.nan, "a share that is not 0 to 1"),
        ("shares", 1, 0.3, "in steps of 1/1024"),
        ("cuts", 2, [128, 0, 129, 256], "leaves the crop"),
        ("cuts", 2, [-1, 0, 128, 256], "leaves the crop"),
        ("cuts", 2, [0, 0, 0, 256], "that is empty"),
        ("shares", 2, 0.25, "not what CutMix leaves"),
        ("cuts", 1, [0, 0, 1, 1], "a box of CutMix in a crop without it"),
        ("shares", 0, 0.5, "a partner in a crop that is not mixed"),
        ("partner_ids", 0, 2, "a partner in a crop that is not mixed"),
        ("flips", 0, True, "a partner in a crop that is not mixed"),
        ("boxes", 0, [0, 0, 1, 1], "a partner in a crop that is not mixed"),
    ],
)
def test_what_is_not(name: str, row: int, value: Any, wrong: str) -> None:
    found = mixing.what_is_wrong(changed(name, row, value), IDS, NUM_IMAGES)
    assert found is not None
    assert wrong in found


def table_of(mix: RecordedMix, ids: NDArray[Any] = IDS) -> pa.Table:
    columns = {"image_id": ids, **mixing.columns_of(mix)}
    return make_table(pa.schema([("image_id", pa.int32()), *schema.MIX]), columns)


def test_columns_are_read_as_they_were_written() -> None:
    assert list(mixing.columns_of(some())) == mixing.column_names() == schema.MIX.names
    found = mixing.from_table(Path("crops.parquet"), table_of(some()), NUM_IMAGES)
    for name in RecordedMix.__slots__:
        np.testing.assert_array_equal(getattr(found, name), getattr(some(), name))
    assert schema.crops(2, has_mix=True).names == [*schema.crops(2).names, *schema.MIX.names]


def test_a_table_that_cannot_be_replayed_is_named() -> None:
    path = Path("a/part.parquet")
    with pytest.raises(DataError, match=r"a/part\.parquet has the kind of mixing 7, which"):
        mixing.from_table(path, table_of(changed("kinds", 1, 7)), NUM_IMAGES)
    with pytest.raises(DataError, match=r"a/part\.parquet lacks the column share; run"):
        mixing.from_table(path, table_of(some()).drop_columns(["share"]), NUM_IMAGES)


def test_crops_of_several_axes_are_cut_and_flattened() -> None:
    mix = some().reshape(1, 3)
    assert mix.boxes.shape == (1, 3, 4)
    one = mix.at((np.array([0]), np.array([2])))
    assert (one.kinds.tolist(), one.cuts.tolist()) == ([2], [[128, 0, 128, 256]])
    np.testing.assert_array_equal(mix.flat().boxes, some().boxes)

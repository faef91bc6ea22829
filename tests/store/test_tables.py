"""Parquet files: what other readers see, and which columns there are."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import schema, tables
from store.layout import part_name
from store.overlay import Action
from tests.store.small_store import (
    NAME,
    NUM_CLASSES,
    NUM_CROPS,
    NUM_IMAGES,
    REJECTED,
    SmallStore,
    bounds,
    crop_columns,
    soft_columns,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "schemas.json"


def frames(path: Path) -> dict[str, pd.DataFrame]:
    """A file as people open it, without this package."""
    return {
        "pandas": pd.read_parquet(path),
        "duckdb": duckdb.connect().execute(f"select * from read_parquet('{path}')").df(),
        "polars": pl.read_parquet(path).to_pandas(),
    }


@pytest.mark.parametrize("reader", ["pandas", "duckdb", "polars"])
def test_plain_readers_see_real_labels(small: SmallStore, reader: str) -> None:
    frame = frames(small.layout.table("soft", "part-00001"))[reader]
    columns, _ = soft_columns(small, 1)
    names = ["image_id", "crop", "target", "target_prob", "class_0", "class_1", "prob_0", "prob_1"]
    assert list(frame.columns) == names
    for name in names:
        np.testing.assert_array_equal(frame[name].to_numpy(), columns[name], err_msg=name)
    kinds = {name: str(frame[name].dtype) for name in names}
    assert {kinds[name] for name in ("prob_0", "prob_1", "target_prob")} == {"float32"}
    assert {kinds[name] for name in ("image_id", "target", "class_0", "class_1")} == {"int32"}
    assert kinds["crop"] == "int16"
    rejected = frame[frame["image_id"] == REJECTED]
    assert len(rejected) == NUM_CROPS
    assert rejected["prob_0"].isna().all()
    assert (rejected["class_0"] == -1).all()


@pytest.mark.parametrize("reader", ["pandas", "duckdb", "polars"])
def test_plain_readers_see_real_boxes_and_actions(small: SmallStore, reader: str) -> None:
    crops = frames(small.layout.table("crops", "part-00000"))[reader]
    for name, values in crop_columns(small, 0).items():
        np.testing.assert_array_equal(crops[name].to_numpy(), values, err_msg=name)
    assert str(crops["flip"].dtype) == "bool"
    overlay = frames(small.layout.table(f"calibrated/{NAME}", "part-00000"))[reader]
    np.testing.assert_array_equal(overlay["action"], small.actions[bounds(0)].ravel())
    assert str(overlay["action"].dtype) == "uint8"
    is_out = overlay["action"].isin([Action.DROP, Action.REJECT])
    assert (overlay["teacher_weight"].isna() == is_out).all()
    images = frames(small.layout.table("images", "images"))[reader]
    assert images["path"].tolist() == small.table.paths.tolist()


def test_a_folder_is_one_table(small: SmallStore) -> None:
    frame = pd.read_parquet(small.layout.folder("soft"))
    assert len(frame) == NUM_IMAGES * NUM_CROPS
    assert frame["image_id"].is_monotonic_increasing
    folder = small.layout.folder("soft")
    query = f"select count(*), max(class_0) from read_parquet('{folder}/*.parquet')"
    assert duckdb.connect().execute(query).fetchall() == [(NUM_IMAGES * NUM_CROPS, NUM_CLASSES - 1)]


def test_nan_becomes_null(small: SmallStore) -> None:
    raw = pq.read_table(small.layout.table("soft", "part-00001"))
    assert raw.column("prob_0").null_count == NUM_CROPS
    assert raw.column("class_0").null_count == 0


def test_row_groups_hold_whole_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 10)
    path = tmp_path / "x.parquet"
    rows = pa.table({"image_id": np.repeat(np.arange(5, dtype=np.int32), 4)})
    tables.write_table(path, rows, {}, rows_per_image=4)
    groups = pq.ParquetFile(path).metadata
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sizes == [8, 8, 4]
    tables.write_table(path, rows, {}, rows_per_image=11)  # more than a group: one image each
    assert pq.ParquetFile(path).metadata.row_group(0).num_rows == 11
    assert tables.read_table(path).column("image_id").to_pylist() == [i // 4 for i in range(20)]


def test_files_carry_checksums_and_encodings(small: SmallStore) -> None:
    group = pq.ParquetFile(small.layout.table("crops", "part-00000")).metadata.row_group(0)
    encodings = {
        group.column(i).path_in_schema: set(group.column(i).encodings)
        for i in range(group.num_columns)
    }
    assert "BYTE_STREAM_SPLIT" in encodings["top"]
    assert "RLE_DICTIONARY" in encodings["image_id"]
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_metadata_of_a_file_says_what_it_is(small: SmallStore) -> None:
    described = tables.read_metadata(tables.read_table(small.layout.table("soft", part_name(0))))
    assert described["artifact"] == "soft"
    assert described["format_version"] == 1
    assert described["attributes"]["label"]["kind"] == "marginal_smoothing"
    assert tables.read_metadata(pa.table({"a": [1]})) == {}


def test_schemas_are_frozen() -> None:
    """Column names and types are the format: raise FORMAT_VERSION when one changes.

    `make_golden()` gives what tests/golden/schemas.json holds.
    """
    assert make_golden() == json.loads(GOLDEN.read_text())


def test_files_have_the_frozen_columns(small: SmallStore) -> None:
    golden = json.loads(GOLDEN.read_text())
    kinds = {
        "images/images": "images",
        "images/classes": "classes",
        "rejects/index": "rejects",
        "crops/part-00000": "crops",
        "predictions/_rejects-00000": "infer_rejects",
        "soft/part-00000": "soft",
        f"calibrated/{NAME}/part-00000": "calibrated",
    }
    for file, kind in kinds.items():
        found = pq.read_schema(small.root / f"{file}.parquet")
        assert {field.name: str(field.type) for field in found} == golden[kind], file


def make_golden() -> dict[str, Any]:
    all_soft = schema.soft(2, has_max_prob=True, has_outside_prob=True)
    kinds = {
        "images": schema.IMAGES,
        "classes": schema.CLASSES,
        "rejects": schema.REJECTS,
        "infer_rejects": schema.INFER_REJECTS,
        "scores": schema.SCORES,
        "crops": schema.CROPS,
        "crops with recorded augmentation": schema.crops(1),
        "crops with recorded mixing": schema.crops(0, has_mix=True),
        "calibrated": schema.CALIBRATED,
        "soft": schema.soft(2, has_max_prob=False, has_outside_prob=False),
        "soft with max_prob and outside_prob": all_soft,
    }
    return {
        kind: {field.name: str(field.type) for field in columns} for kind, columns in kinds.items()
    }

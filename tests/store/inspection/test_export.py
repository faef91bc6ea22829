import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import entries, scan, tables
from store.errors import DataError, FerkdError, ParamsError
from store.inspection import export as store_export
from store.inspection import joined
from store.inspection.export import check_target, export, export_csv, plan_export
from store.inspection.selection import Selection
from store.schema import CALIBRATED
from tests.store.inspection.exported import expected, same, written
from tests.store.inspection.worlds import Watch, build_logits
from tests.store.small_store import (
    NAME,
    NUM_CROPS,
    NUM_IMAGES,
    SmallStore,
    overlay_columns,
    publish_rows,
)


@pytest.mark.parametrize("rows_at_once", [1, 7, 10_000])
def test_everything_joined(
    rows_at_once: int, small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "BLOCK_ROWS", rows_at_once)
    found = written(small, tmp_path / "all.parquet", calibration=NAME)
    wanted = expected(small, NAME)
    assert set(found.columns) == set(wanted.columns)
    assert list(found.columns)[:5] == ["image_id", "crop", "path", "target", "class_name"]
    assert same(found, wanted)
    assert found["prob_0"].dtype == np.float32 and found["crop"].dtype == np.int16


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow", ".feather", ".ipc"])
def test_every_format_has_the_same_rows(suffix: str, small: SmallStore, tmp_path: Path) -> None:
    out = tmp_path / f"rows{suffix}"
    plan = plan_export(small.root, "labels", [], Selection(), NAME)
    assert export(plan, out, Watch()) == NUM_IMAGES * NUM_CROPS
    if suffix == ".csv":
        found = pd.read_csv(out)
        wanted = expected(small, NAME)
        for name in found.columns:
            if wanted[name].dtype == np.float32:
                found[name] = found[name].astype(np.float32)
    elif suffix == ".parquet":
        found, wanted = pd.read_parquet(out), expected(small, NAME)
    else:
        found, wanted = pa.ipc.open_file(out).read_pandas(), expected(small, NAME)
    assert same(found, wanted)


def test_columns_in_the_order_asked_for(small: SmallStore, tmp_path: Path) -> None:
    columns = ("prob_1", "class_name", "action_name", "crop")
    found = written(small, tmp_path / "x.parquet", columns=columns, calibration=NAME)
    assert tuple(found.columns) == columns
    assert same(found, expected(small, NAME))


@pytest.mark.parametrize(
    ("artifact", "columns"),
    [
        ("crops", ["image_id", "crop", "top", "left", "height", "width", "flip"]),
        (
            "soft",
            ["image_id", "crop", "target", "target_prob", "class_0", "class_1", "prob_0", "prob_1"],
        ),
        (
            f"calibrated/{NAME}",
            ["image_id", "crop", "action", "action_name", "teacher_weight", "target_weight"],
        ),
    ],
)
def test_one_artifact(artifact: str, columns: list[str], small: SmallStore, tmp_path: Path) -> None:
    found = written(small, tmp_path / "x.parquet", Selection(classes=("0",)), artifact=artifact)
    assert list(found.columns) == columns
    wanted = expected(small, NAME)
    assert same(found, wanted[wanted["target"] == 0])


def test_images_and_rejects(small: SmallStore, tmp_path: Path) -> None:
    found = written(small, tmp_path / "i.parquet", Selection(classes=("3",)), artifact="images")
    assert found["class_name"].unique().tolist() == ["klasse 3"]
    assert found["path"].tolist() == small.table.paths[small.table.class_ids == 3].tolist()
    rejects = written(small, tmp_path / "r.parquet", artifact="rejects")
    assert rejects["reason"].tolist() == ["it is empty"]


def test_kind_full_gives_ids_and_the_two_probabilities(full: SmallStore, tmp_path: Path) -> None:
    found = written(full, tmp_path / "x.parquet", calibration=NAME)
    assert not [name for name in found.columns if name.startswith("prob_")]
    probs = full.probs.reshape(-1, full.probs.shape[-1])
    np.testing.assert_allclose(found["max_prob"], probs.max(axis=1), rtol=1e-3)
    assert found["target"].tolist() == np.repeat(full.table.class_ids, NUM_CROPS).tolist()
    sure = written(full, tmp_path / "y.parquet", Selection(max_prob="0.5:1"))
    assert len(sure) == (found["max_prob"] >= 0.5).sum()


def test_kind_logits_has_no_maximum_to_choose_by(tmp_path: Path) -> None:
    store = build_logits(tmp_path / "labels")
    found = written(store, tmp_path / "x.parquet", Selection(classes=("1",)))
    assert found["target"].unique().tolist() == [1]
    with pytest.raises(ParamsError, match=r"^max_prob: labels of kind logits have no maximum"):
        written(store, tmp_path / "y.parquet", Selection(max_prob="0:0.5"))


def test_the_target_is_guarded(small: SmallStore, tmp_path: Path) -> None:
    present = tmp_path / "x.csv"
    present.write_text("mine")
    with pytest.raises(ParamsError, match="exists; it is replaced only with force"):
        check_target(small.root, present, force=False)
    check_target(small.root, present, force=True)
    with pytest.raises(ParamsError, match=r"must end with \.csv, "):
        check_target(small.root, tmp_path / "x.xlsx", force=False)
    with pytest.raises(ParamsError, match="lies inside the store"):
        check_target(small.root, small.root / "new.csv", force=True)
    (tmp_path / "link").symlink_to(small.root)
    with pytest.raises(ParamsError, match="lies inside the store"):
        check_target(small.root, tmp_path / "link" / "soft" / "new.csv", force=True)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ParamsError, match="is a folder"):
        check_target(small.root, tmp_path / "folder.csv", force=True)


def test_a_failure_leaves_the_old_file(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(*_: object) -> Iterator[pa.Table]:
        yield pa.table({"image_id": pa.array([0], pa.int32())})
        raise FerkdError("the disk went away")

    plan = plan_export(small.root, "labels", ["image_id"], Selection(), None)
    monkeypatch.setattr(joined.Joined, "rows", rows)
    (tmp_path / "x.csv").write_text("old")
    with pytest.raises(FerkdError, match="went away"):
        export(plan, tmp_path / "x.csv", Watch())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.csv", "old")]


def test_csv_to_a_stream_is_that_of_the_file(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "BLOCK_ROWS", 4)
    plan = plan_export(small.root, "labels", [], Selection(classes=("0", "1")), None)
    stream = io.BytesIO()
    assert export_csv(plan, stream, Watch()) == export(plan, tmp_path / "x.csv", Watch())
    assert stream.getvalue() == (tmp_path / "x.csv").read_bytes()


def test_few_chosen_rows_make_one_row_group(small: SmallStore, tmp_path: Path) -> None:
    written(small, tmp_path / "x.parquet", Selection(max_prob="0.3:0.6"))
    assert pq.read_metadata(tmp_path / "x.parquet").num_row_groups == 1
    assert store_export.SUFFIXES[0] == ".csv"


def test_tables_of_other_crops_are_refused(own: SmallStore, tmp_path: Path) -> None:
    columns = overlay_columns(own.actions, 1)
    columns["crop"] = columns["crop"][::-1].copy()
    digest = entries.read_entry(own.layout.entry("soft", "part-00001")).rows_digest
    table = tables.make_table(CALIBRATED, columns)
    publish_rows(
        own.layout, f"calibrated/{NAME}", "part-00001", "calibrate", {"soft": digest}, table
    )
    with pytest.raises(DataError, match=r"part-00001.parquet has other rows than"):
        written(own, tmp_path / "x.parquet", calibration=NAME)
    publish_rows(own.layout, f"calibrated/{NAME}", "part-00001", "calibrate", {}, table)
    with pytest.raises(DataError, match="made from other soft"):
        written(own, tmp_path / "x.parquet", calibration=NAME)

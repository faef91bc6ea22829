"""Which rows an export takes, and what it says of choices that cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store.errors import ParamsError
from store.inspection.export import export, plan_export
from store.inspection.selection import Selection, of_max_prob
from tests.store.inspection.exported import expected, same, written
from tests.store.inspection.worlds import Watch
from tests.store.small_store import NAME, REJECTED, SmallStore

SELECTIONS: list[tuple[Selection, Any]] = [
    (Selection(shards=(1,)), lambda f: f["image_id"] >= 4),
    (Selection(image_ids=(2, 7)), lambda f: f["image_id"].isin([2, 7])),
    (Selection(classes=("klasse 1", "3")), lambda f: f["target"].isin([1, 3])),
    (Selection(path="klasse [02]/*-5.jpg"), lambda f: f["path"].str.endswith("-5.jpg")),
    (Selection(actions=("drop", "soften")), lambda f: f["action"].isin([1, 2])),
    (Selection(max_prob="0.4:0.7"), lambda f: (f["prob_0"] >= 0.4) & (f["prob_0"] < 0.7)),
    (Selection(max_prob=":"), lambda f: f["prob_0"].notna()),
    (
        Selection(shards=(0,), classes=("klasse 1",), actions=("keep",)),
        lambda f: (f["image_id"] < 4) & (f["target"] == 1) & (f["action"] == 0),
    ),
]


@pytest.mark.parametrize(("selection", "rule"), SELECTIONS)
def test_a_selection(selection: Selection, rule: Any, small: SmallStore, tmp_path: Path) -> None:
    wanted = expected(small, NAME)
    chosen = wanted[rule(wanted)]
    assert 0 < len(chosen) < len(wanted)
    assert same(written(small, tmp_path / "x.parquet", selection, calibration=NAME), chosen)


def test_the_upper_end_counts_only_where_it_is_1() -> None:
    values = np.array([0.0, 0.5, 1.0, np.nan], np.float32)
    assert of_max_prob(values, (0.5, 1.0), "float16").tolist() == [False, True, True, False]
    assert of_max_prob(values, (0.0, 0.5), "compact").tolist() == [True, False, False, False]


def test_limit_counts_chosen_rows(small: SmallStore, tmp_path: Path) -> None:
    found = written(small, tmp_path / "x.parquet", Selection(classes=("klasse 2",), limit=3))
    wanted = expected(small)
    assert same(found, wanted[wanted["target"] == 2].head(3))
    assert len(written(small, tmp_path / "y.parquet", Selection(limit=1000))) == 32


def test_nothing_chosen_still_says_the_columns(small: SmallStore, tmp_path: Path) -> None:
    out = tmp_path / "none.csv"
    plan = plan_export(small.root, "labels", ["path", "prob_0"], Selection(max_prob="0:0.01"), None)
    assert export(plan, out, Watch()) == 0
    assert out.read_text() == '"path","prob_0"\n'


def test_the_rejected_image_has_empty_probabilities(small: SmallStore, tmp_path: Path) -> None:
    found = written(small, tmp_path / "x.parquet", Selection(image_ids=(REJECTED,)))
    assert found["prob_0"].isna().all() and (found["class_0"] == -1).all()


@pytest.mark.parametrize(
    ("selection", "options", "message"),
    [
        (Selection(shards=(2,)), {}, "^shard 2: must be 0 to 1"),
        (Selection(image_ids=(8,)), {}, "^image_id 8: must be 0 to 7"),
        (Selection(classes=("klasse 7",)), {}, "^class klasse 7: .* nearest are klasse"),
        (Selection(classes=("xyz",)), {}, "^class xyz: .* there are klasse 0, "),
        (Selection(path="*.png"), {}, r"^path \*.png: no image fits; paths look like klasse"),
        (Selection(actions=("drop",)), {}, "^action: needs a calibration"),
        (Selection(max_prob="0.7"), {}, "^max_prob 0.7: must be LOW:HIGH"),
        (Selection(max_prob="0.7:0.3"), {}, "^max_prob 0.7:0.3: must be"),
        (Selection(max_prob="a:b"), {}, "^max_prob a:b: must be"),
        (Selection(), {"columns": ("prob_9",)}, "^columns prob_9: .* it has image_id, crop, path"),
        (Selection(), {"columns": ("action",)}, "^columns action: "),
        (Selection(), {"calibration": "no"}, "^calibration no: .* it has mixed"),
        (Selection(), {"artifact": "predictions"}, "^artifact predictions: must be one of labels"),
        (
            Selection(),
            {"artifact": f"calibrated/{NAME}", "calibration": "other"},
            f"^calibration other: artifact calibrated/{NAME} is another one",
        ),
        (Selection(shards=(0,)), {"artifact": "images"}, "^shard: images has no rows of crops"),
        (Selection(path="*"), {"artifact": "rejects"}, "^path: rejects has no rows"),
    ],
)
def test_what_cannot_be_is_named(
    selection: Selection, options: Any, message: str, small: SmallStore, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match=message):
        written(small, tmp_path / "x.parquet", selection, **options)
    assert not list(tmp_path.iterdir())

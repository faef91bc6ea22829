"""Verify says which whole artifact is missing, and reads no file twice."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.shared.contract import NoProgress
from store import recorded
from store.check import verify
from tests.store.check.found import damages
from tests.store.small_store import NAME, SmallStore


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("artifact", "made"),
    [
        ("images", f"calibrated/{NAME}, crops, predictions, soft"),
        ("crops", f"calibrated/{NAME}, predictions, soft"),
        ("soft", f"calibrated/{NAME}"),
    ],
)
def test_artifact_that_others_were_made_from_is_missed(
    own: SmallStore, artifact: str, made: str, deep: bool
) -> None:
    shutil.rmtree(own.root / artifact)
    (found,) = verify.verify(own.root, NoProgress(), deep=deep).damages
    assert (found.file, found.part) == (str(own.root / artifact), artifact)
    assert found.kind == f"is missing, and {made} cannot be checked without"
    stage = {"images": "index", "crops": "sample", "soft": "compress"}[artifact]
    assert found.remedy.startswith(f"run `ferkd-pipeline stage {stage}`")


def test_all_that_a_calibration_needs_is_missed(own: SmallStore) -> None:
    for artifact in ("crops", "predictions", "soft"):
        shutil.rmtree(own.root / artifact)
    assert [damage.part for damage in damages(own.root)] == ["crops", "soft"]


@pytest.mark.parametrize("deep", [False, True])
def test_predictions_may_be_deleted(own: SmallStore, deep: bool) -> None:
    assert verify.verify(own.root, NoProgress(), deep=deep).notes == []
    shutil.rmtree(own.root / "predictions")
    result = verify.verify(own.root, NoProgress(), deep=deep)
    assert result.damages == []
    (note,) = result.notes
    assert note.startswith(f"{own.root / 'predictions'} is not there: the labels are whole without")
    shutil.rmtree(own.root / "soft")
    assert verify.verify(own.root, NoProgress(), deep=deep).notes == []


def test_deep_needs_images(own: SmallStore) -> None:
    for artifact in ("images", "crops", "predictions", "soft", "calibrated"):
        shutil.rmtree(own.root / artifact)
    assert damages(own.root) == []
    (found,) = verify.verify(own.root, NoProgress(), deep=True).damages
    assert found.part == "images"


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["small", "full"])
def test_no_file_is_hashed_twice(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, deep: bool
) -> None:
    store: SmallStore = request.getfixturevalue(kind)
    plain, hashed = recorded._sha256, Counter[Path]()

    def sha256(path: Path, tell: Any) -> str:
        hashed[path] += 1
        return plain(path, tell)

    monkeypatch.setattr(recorded, "_sha256", sha256)
    result = verify.verify(store.root, NoProgress(), deep=deep)
    assert set(hashed.values()) == {1}
    assert len(hashed) == result.num_files
    assert recorded.entry_beside(store.layout.table("crops", "part-00001")) is not None

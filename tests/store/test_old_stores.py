"""Stores that earlier versions wrote verify, read and train as they did then."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.shared.contract import NoProgress
from store import entries, tables
from store.arrays import ArrayReader
from store.check import verify
from store.layout import Layout
from store.notebook.label_store import LabelStore
from store.view.build import plan_view

GOLDEN = Path(__file__).parents[1] / "golden" / "store_v1"


class Old:
    """A copy of an old store, and what was read from it when it was written."""

    def __init__(self, name: str, folder: Path) -> None:
        self.root = folder / "labels"
        shutil.copytree(GOLDEN / name / "labels", self.root)
        self.layout = Layout.beside(self.root)
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
            self.values: dict[str, Any] = dict(file)
        self.text = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))

    def of(self, prefix: str) -> dict[str, Any]:
        """Expected values under one name, by column or array."""
        return {
            name.removeprefix(f"{prefix}:"): values
            for name, values in {**self.values, **self.text}.items()
            if name.startswith(f"{prefix}:")
        }


@pytest.fixture(params=["sparse", "full"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Old:
    return Old(request.param, tmp_path)


def test_it_verifies(old: Old) -> None:
    assert verify.verify(old.root, NoProgress(), deep=True).damages == []


def test_tables_and_arrays_have_the_values_of_then(old: Old) -> None:
    compared = 0
    for path in sorted(old.root.rglob("*.parquet")):
        table = tables.read_table(path)
        expected = old.of(path.relative_to(old.root).with_suffix("").as_posix())
        assert set(table.column_names) == set(expected)
        for name, values in expected.items():
            found = tables.column(table, name)
            np.testing.assert_array_equal(found, values)
            compared += 1
    for path in sorted(old.root.rglob("*.zarr")):
        reader = ArrayReader(path)
        for name, values in old.of(path.relative_to(old.root).as_posix()).items():
            found = reader.read(name, 0, reader.num_images)
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values)
            compared += 1
    assert compared == len([n for n in (*old.values, *old.text) if not n.startswith("view ")])


@pytest.mark.parametrize("calibration", [None, "mixed"])
def test_view_trains_on_the_labels_of_then(old: Old, calibration: str | None) -> None:
    expected = old.of(f"view {calibration}")
    if not expected:
        assert calibration is not None
        return
    view = plan_view(old.layout, 2, Path("images"), calibration).open()
    rows = np.arange(view.num_images)
    crops = view.draw(rows, 0, 3, 11)
    np.testing.assert_array_equal(np.asarray(view.image_ids), expected.pop("image_ids"))
    np.testing.assert_array_equal(crops, expected.pop("crops"))
    batch = view.gather(rows, crops)
    found = {name: getattr(batch, name) for name in expected}
    for name in ("boxes", "flips", "targets"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    np.testing.assert_array_equal(dense(found), dense(expected))


def dense(batch: dict[str, Any]) -> NDArray[np.float32]:
    """Labels (B, m, C) of a batch: how many entries spell one may change, not what it says."""
    if "dense" in batch:
        return np.asarray(batch["dense"])
    label = np.repeat(batch["tail"][..., None], 5, axis=-1)
    for entry in range(batch["class_ids"].shape[-1]):
        at = batch["class_ids"][..., entry : entry + 1]
        added = np.take_along_axis(label, at, -1) + batch["weights"][..., entry : entry + 1]
        np.put_along_axis(label, at, added, -1)
    return np.asarray(label)


def test_notebook_reads_it(old: Old) -> None:
    store = LabelStore(old.root)
    boxes = old.of("crops/part-00001")
    found = store.crops(1)
    for name in ("image_id", "crop", "top", "left", "height", "width", "flip"):
        np.testing.assert_array_equal(found[name].to_numpy(), boxes[name])
    if "soft/part-00001:prob_0" in old.values:
        labels = store.labels(1, "mixed")
        assert len(labels) == len(boxes["crop"])


def test_its_entries_are_recorded_again_as_they_are(old: Old) -> None:
    """The digest that entries carry now came later: neither read nor recorded differs for that."""
    for artifact in verify.list_artifacts(old.layout):
        manifest = old.layout.manifest(artifact)
        before = manifest.read_bytes()
        entries.write_manifest(old.layout, artifact)
        assert manifest.read_bytes() == before

"""The two scripts, as people start them, on a handful of images."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.synthetic import Synthetic
from stages.shared.contract import NoProgress
from store.check.verify import verify
from store.entries import list_entries
from store.layout import Layout

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = {
    "bytes_per_crop",
    "label_bytes_per_crop",
    "fetch_ratio",
    "compress_rate",
    "calibrate_rate",
    "open_seconds",
    "worker_mb",
    "mean_kl",
    "max_kl",
    "draw_rate",
    "compress_from_zarr_rate",
}


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"benchmarks/{script}", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def result(script: str, *arguments: str) -> dict[str, Any]:
    done = run(script, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Labels of somebody else as a file, classes in no order, and what was measured of them."""
    folder = tmp_path_factory.mktemp("given")
    labels, _ = Synthetic(40, num_crops=6, seed=3).labels()
    order = np.random.default_rng(0).permuted(np.tile(np.arange(5), (40, 6, 1)), axis=2)
    np.savez(
        folder / "labels.npz",
        box=labels.boxes.astype(np.int64),
        flip=labels.flips,
        ids=np.take_along_axis(labels.class_ids, order, axis=2),
        p=np.take_along_axis(labels.probs, order, axis=2),
        gt=labels.table.class_ids,
    )
    where = "--labels", str(folder / "labels.npz"), "--keep", str(folder / "kept")
    found = result("store.py", *where, "--rounds", "1")
    return {"folder": folder / "kept", "found": found, "labels": labels}


def test_the_json_has_the_keys_that_are_promised(given: dict[str, Any]) -> None:
    found = given["found"]
    assert found.keys() >= KEYS
    numbers = [found[key] for key in KEYS]
    assert all(isinstance(value, float) and np.isfinite(value) for value in numbers)
    assert 0 <= found["mean_kl"] < 1e-4
    assert set(found["peers"]) >= {"reference", "lmdb", "hdf5", "arrow_ipc", "view", "store"}
    peers = found["peers"]
    ratio = peers["view"]["fetch_rate"] / peers["reference"]["fetch_rate"]
    assert found["fetch_ratio"] == pytest.approx(ratio)


def test_bytes_are_those_of_the_kept_files(given: dict[str, Any]) -> None:
    found, root = given["found"], given["folder"] / "labels"
    size = {
        name: sum(path.stat().st_size for path in (root / name).iterdir())
        for name in ("crops", "soft")
    }
    unused = found["unused_bytes_per_crop"]
    assert found["label_bytes_per_crop"] == pytest.approx(size["soft"] / 240 - unused)
    both = (size["soft"] + size["crops"]) / 240
    assert found["bytes_per_crop"] == pytest.approx(both - unused)


def test_the_kept_store_is_an_ordinary_one(given: dict[str, Any]) -> None:
    root, labels = given["folder"] / "labels", given["labels"]
    assert not verify(root, NoProgress()).damages
    assert [entry.rows for entry in list_entries(Layout.beside(root), "soft")] == [240]
    soft = pd.read_parquet(root / "soft", engine="pyarrow")
    crops = pd.read_parquet(root / "crops", engine="pyarrow")
    boxes = crops[["top", "left", "height", "width"]].to_numpy()
    np.testing.assert_array_equal(boxes, labels.boxes.reshape(-1, 4))
    np.testing.assert_array_equal(crops["flip"], labels.flips.reshape(-1))
    classes = soft[[f"class_{k}" for k in range(5)]].to_numpy()
    np.testing.assert_array_equal(classes, labels.class_ids.reshape(-1, 5))
    probs = soft[[f"prob_{k}" for k in range(5)]].to_numpy()
    np.testing.assert_allclose(probs, labels.probs.reshape(-1, 5), atol=0.01)


def test_a_store_that_exists_is_not_written_over(given: dict[str, Any]) -> None:
    done = run("store.py", "--keep", str(given["folder"]))
    assert done.returncode == 1
    assert "exists already" in done.stderr and "Traceback" not in done.stderr


def test_a_full_size_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    sizes = "--images", "96", "--crops", "6", "--shards", "3", "--out", str(tmp_path / "run")
    first = result("full_size.py", *sizes)
    labels = tmp_path / "run" / "labels"
    assert not verify(labels, NoProgress()).damages
    assert first["phases"]["labels"]["num_rows"] == 96 * 6
    assert {path.name for path in tmp_path.iterdir()} == {"run"}

    before = (labels / "soft" / "part-00001.parquet").read_bytes()
    kept = (labels / "soft" / "part-00002.parquet").stat().st_mtime_ns
    (labels / "soft" / "_part-00001.json").unlink()
    again = result("full_size.py", *sizes)
    assert again["phases"]["labels"]["num_rows"] == 96 * 6 + 32 * 6
    assert (labels / "soft" / "part-00001.parquet").read_bytes() == before
    assert (labels / "soft" / "part-00002.parquet").stat().st_mtime_ns == kept
    assert again["phases"]["crops"] == first["phases"]["crops"]

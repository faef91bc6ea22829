"""The same rows however the work is cut up, ordered or surrounded: shards, workers, folders."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import stages.train.run  # noqa: F401  before children are forked: it takes seconds
from ferkd_pipeline import cli
from store.arrays import ArrayReader
from store.layout import part_name
from tests.children import end_of, start
from tests.faults.soak import rounds
from tests.stages.test_projection import SHOWN as PROJECTION
from tests.stages.test_projection import write_head
from tests.world import NETWORK, SHARDED, Project, Tree, merged, write_images, write_teacher

Rows = dict[str, Any]

RECORDED: dict[str, Any] = {
    "sample": {"augment": {"rand_augment": {"num_ops": 2}, "colour_jitter": {"hue": 0.1}}}
}
MIXED: dict[str, Any] = {"sample": {"mix": {"crops_per_partner": 3}}, "calibrate": None}
ENSEMBLE: dict[str, Any] = {
    "infer": {
        "teacher": [
            {**NETWORK, "weights": "models/teacher", "share": 2},
            {**NETWORK, "weights": "models/other", "input_size": 24},
        ]
    }
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full": {"compress": {"kind": "full"}},
    "recorded augmentation": RECORDED,
    "recorded mixing": MIXED,
    "ensemble": ENSEMBLE,
    "recorded ensemble": RECORDED | ENSEMBLE,
    "projection": PROJECTION,
}
FAST = ("plain", "recorded ensemble", "projection")
IS_SOAK = rounds(1) > 1


def stages_of(changes: dict[str, Any]) -> tuple[str, ...]:
    return SHARDED[:-1] if changes.get("calibrate", {}) is None else SHARDED


def rows(num_shards: int, root: str = "labels") -> Rows:
    """Every row of a store, shard borders forgotten."""
    found: Rows = {}
    for folder in sorted({path.parent for path in Path(root).rglob("part-*")}):
        if folder.suffix == ".zarr" or any(each.suffix == ".zarr" for each in folder.parents):
            continue
        name = folder.relative_to(root).as_posix()
        parts = [folder / f"{part_name(shard)}" for shard in range(num_shards)]
        if parts[0].with_suffix(".parquet").exists():
            tables = [pq.read_table(part.with_suffix(".parquet")) for part in parts]
            found[name] = pa.concat_tables(tables).combine_chunks().to_pydict()
        else:
            readers = [ArrayReader(part.with_suffix(".zarr")) for part in parts]
            found[name] = {
                each: np.concatenate([r.read(each, 0, r.num_images) for r in readers]).tobytes()
                for each in readers[0].names
            }
    assert {"crops", "predictions", "soft"} <= found.keys()
    return found


def same(found: Rows, expected: Rows) -> None:
    """NaN is NaN: values are compared as they are printed, bytes as bytes."""
    assert found.keys() == expected.keys()
    for name, columns in expected.items():
        assert found[name].keys() == columns.keys(), name
        for column, values in columns.items():
            assert repr(found[name][column]) == repr(values), f"{name}.{column}"


@pytest.fixture
def teachers(own: Project) -> Project:
    """A project with all the teachers that the kinds ask."""
    write_teacher(Path("models/other"), seed=1)
    write_head(Path("models/head"))
    return own


@pytest.mark.parametrize("kind", KINDS if IS_SOAK else FAST)
def test_any_number_of_shards(teachers: Project, kind: str) -> None:
    """Calibrations too, though their thresholds come from all shards together."""
    expected = None if KINDS[kind] else rows(3)  # of the project's own store
    for num_shards in (1, 3, 7, 25) if IS_SOAK else (1, 7):
        root = f"labels{num_shards}"  # apart, and with a work folder each: nothing is copied
        store = {"root": f"{root}/labels", "num_shards": num_shards}
        changes = {**KINDS[kind], "store": store}
        teachers.run("index", *stages_of(changes), **changes)
        found = rows(num_shards, f"{root}/labels")
        if expected is not None:
            same(found, expected)
        expected = found
        if stages_of(changes) == SHARDED:
            assert {"calibrated/ferkd", "calibrated/shares"} <= found.keys()


@contextlib.contextmanager
def shuffled_folders(seed: int) -> Iterator[None]:
    """Folders list their files in another order each time, as file systems may."""
    chance = random.Random(seed)
    listdir, scandir = os.listdir, os.scandir

    class Entries(contextlib.AbstractContextManager[Any]):
        def __init__(self, path: Any) -> None:
            with scandir(path) as found:
                self._found = list(found)
            chance.shuffle(self._found)
            self._next = iter(self._found)

        def __iter__(self) -> Iterator[Any]:
            return self._next

        def __next__(self) -> Any:
            return next(self._next)

        def __exit__(self, *_: object) -> None:
            return None

        def close(self) -> None:
            return None

    def listed(path: Any = ".") -> Any:
        found = listdir(path)
        chance.shuffle(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", Entries)
        patch.setattr(os, "listdir", listed)
        yield


def whole_run(project: Project) -> None:
    project.run("index", *SHARDED)


def in_any_order(project: Project) -> None:
    """Shards of each stage one by one by one thread, in an order of their own, then recorded."""
    project.run("index")
    other: dict[str, Any] = {"infer": {"num_workers": 1}}
    for number, stage in enumerate(SHARDED):
        if stage == "calibrate":  # its first phase looks at all shards together
            project.run(stage)
            continue
        for shard in random.Random(number).sample(range(3), 3):
            project.run(stage, shards=(shard,), **other)
        project.run(stage)


def with_other_workers(project: Project) -> None:
    changes: dict[str, Any] = {"infer": {"num_workers": 1}, "index": {"num_workers": 3}}
    project.run("index", *SHARDED, **changes)


def in_shuffled_folders(project: Project) -> None:
    with shuffled_folders(3):
        project.run("index", *SHARDED)


def written_in_another_order(project: Project) -> None:
    """The images were copied last to first, with other times, and are listed in any order."""
    paths = sorted((path for path in Path("images").rglob("*.*")), reverse=True)
    for path in paths:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    in_shuffled_folders(project)


WAYS: tuple[Callable[[Project], None], ...] = (
    whole_run,
    in_any_order,
    with_other_workers,
    in_shuffled_folders,
    written_in_another_order,
)
FAST_WAYS = (in_any_order, written_in_another_order)


@pytest.mark.parametrize("way", WAYS if IS_SOAK else FAST_WAYS, ids=lambda way: way.__name__)
def test_the_same_files_byte_for_byte(
    made: Project, own: Project, way: Callable[[Project], None]
) -> None:
    """Rows, entries and manifests: where shards are cut alike, all is alike."""
    expected = own.tree()
    shutil.rmtree("labels")
    shutil.rmtree(".ferkd")
    way(own)
    assert own.tree() == expected


ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {"PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "OMP_NUM_THREADS": "3"},
    {
        "PYTHONHASHSEED": "77",
        "OMP_NUM_THREADS": "2",
        "TZ": "America/St_Johns",
        "LC_ALL": "tr_TR.UTF-8",
        "COLUMNS": "20",
    },
)


@pytest.mark.parametrize("environment", ENVIRONMENTS if IS_SOAK else ENVIRONMENTS[:1])
def test_another_environment(own: Project, environment: dict[str, str]) -> None:
    """In a process of its own: seeds of hashes are drawn where Python starts."""
    expected = own.tree()
    stages = ("index", *SHARDED) if IS_SOAK else ("index", "sample")
    for folder in ("images", "crops", *(["predictions", "soft", "calibrated"] if IS_SOAK else [])):
        shutil.rmtree(f"labels/{folder}")
    own.write_params()
    code = (
        "import sys; from ferkd_pipeline.cli import main;"
        f"sys.exit(max(main(['stage', name]) for name in {stages}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert own.tree() == expected


TRAIN: dict[str, Any] = {
    "model": {**merged(NETWORK, {"model_kwargs": {"drop_rate": 0.2}}), "input_size": 16},
    "calibration": "ferkd",
    "evaluation": "val",
    "lr": 0.05,
    "mix": "selfmix",
    "erase_probability": 0.3,
    "augment": "rand-m9-mstd0.5",
    "crops_per_image": 2,
    "batch_size": 8,
    "steps": 5,
    "device": "cpu",
}


def student(project: Project, num_threads: int = 1, **changes: Any) -> Tree:
    """What a training by so many threads leaves, in a process of its own."""
    project.write_params(train={**TRAIN, **changes})
    for folder in ("models/student", "metrics/train", ".ferkd/done", ".ferkd/results"):
        shutil.rmtree(folder, ignore_errors=True)
    assert by_threads(num_threads, "train") == 0
    return project.tree("models/student", "metrics/train")


def by_threads(number: int, *stages: str) -> int:
    """Run stages in a child whose network computes with so many threads."""

    def run() -> int:
        torch.set_num_threads(number)
        return max(cli.main(["stage", name]) for name in stages)

    return end_of(start(run))


def test_students_are_the_same_whoever_decodes(own: Project) -> None:
    """By 0, 1 and 2 processes: weights, metrics and the model's card, byte for byte."""
    write_images(Path("val"), num=1, seed=2)
    counts = (0, 1, 2, 0) if IS_SOAK else (0, 1, 2)
    results = [student(own, num_workers=number) for number in counts]
    assert len(results[0]) >= 3
    assert all(each == results[0] for each in results[1:])


def test_any_number_of_threads(own: Project) -> None:
    """Labels are the same to the byte. A student is so only by as many threads: its gradients are
    sums over a batch, and floating-point sums depend on their order.
    """
    expected = own.tree()
    own.write_params()
    for number in (2, 3) if IS_SOAK else (3,):
        for folder in ("predictions", "soft", "calibrated"):
            shutil.rmtree(f"labels/{folder}")
        assert by_threads(number, *SHARDED) == 0
        assert own.tree() == expected, number
    write_images(Path("val"), num=1, seed=2)
    assert student(own, num_threads=2) == student(own, num_threads=2, num_workers=1)


def test_the_order_of_sections_and_keys_means_nothing(own: Project) -> None:
    """Nor does a comment or a number written otherwise: every shard is complete already."""
    expected = own.tree()
    own.write_params()
    values = json.loads(Path("params.yaml").read_text())
    turned = {name: values[name] for name in reversed(values)}
    turned["sample"] = dict(reversed(turned["sample"].items()))
    Path("params.yaml").write_text("# a comment\n" + json.dumps(turned, indent=1))
    for stage in SHARDED:
        assert cli.main(["stage", stage]) == 0
        assert {why for why in own.why(stage)} == {"complete"}
    assert own.tree() == expected

"""Every kind of damage to every file that a stage reads: it stops, names it, publishes nothing.

`tests/store/check/test_flips.py` shows that verify finds all this; here nobody ran verify.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ferkd_pipeline import engine
from stages.shared.contract import NoProgress
from store import images, scores
from store.digest import sha256_json
from store.entry import pretty_json
from store.errors import DataError
from store.parts import PartWriter
from store.schema import SCORES
from store.tables import make_table
from store.view.build import plan_view
from tests.faults.soak import rounds
from tests.world import NUM_IMAGES, Project, copy_project

SELECT: dict[str, Any] = {
    "calibrate": {
        "ferkd": None,
        "shares": None,
        "chosen": [{"step": "select", "scores": "hard", "share": 0.5}],
    }
}
FULL: dict[str, Any] = {"compress": {"kind": "full"}}
OPS: dict[str, Any] = {"sample": {"augment": {"rand_augment": {}}}}
SPARSE, DENSE, AUGMENTED = "sparse", "full", "ops"
CHANGES: dict[str, dict[str, Any]] = {SPARSE: {}, DENSE: FULL, AUGMENTED: OPS}

Read = Callable[[Project], object]
Damage = Callable[[Path, random.Random, "Worlds"], None]


@dataclass(frozen=True)
class Worlds:
    """Complete projects, and the files of another one, which may get among theirs."""

    by_name: dict[str, Project]
    other: dict[str, bytes]
    """Files of the store of another project: other boxes, of other images."""


def stage(name: str, **changes: Any) -> Read:
    """Makes shard 1 of a stage anew."""

    def read(project: Project) -> object:
        params = project.params(**changes)
        return engine.run_stage(params, name, (1,), progress=NoProgress(), force=True)

    return read


def view(calibration: str | None) -> Read:
    """Builds what train learns from."""

    def read(project: Project) -> object:
        try:
            return plan_view(project.layout, 3, Path("images"), calibration).open()
        finally:
            shutil.rmtree(".ferkd/view", ignore_errors=True)

    return read


READERS: list[tuple[str, str, Read, tuple[str, ...]]] = [
    (
        SPARSE,
        "infer",
        stage("infer"),
        (
            "images/images.parquet",
            "images/classes.parquet",
            "images/_images.json",
            "crops/part-00001.parquet",
            "crops/_part-00001.json",
        ),
    ),
    (AUGMENTED, "infer", stage("infer", **OPS), ("crops/part-00001.parquet",)),
    (
        SPARSE,
        "compress",
        stage("compress"),
        (
            "predictions/_part-00001.json",
            "predictions/part-00001.zarr/zarr.json",
            "predictions/part-00001.zarr/logp/zarr.json",
            "predictions/part-00001.zarr/logp/c/1/0/0",
            "predictions/part-00001.zarr/logsumexp/c/0/0/0",
        ),
    ),
    (
        SPARSE,
        "calibrate",
        stage("calibrate"),
        ("soft/part-00001.parquet", "soft/_part-00001.json", "calibrated/ferkd/_fit.json"),
    ),
    (DENSE, "calibrate", stage("calibrate", **FULL), ("soft/part-00001.zarr/prob/c/0/0/0",)),
    (
        SPARSE,
        "select",
        stage("calibrate", **SELECT),
        ("scores/hard.parquet", "scores/_hard.json"),
    ),
    (
        SPARSE,
        "train",
        view("ferkd"),
        (
            "images/images.parquet",
            "crops/part-00001.parquet",
            "soft/part-00001.parquet",
            "soft/_part-00001.json",
            "calibrated/ferkd/part-00001.parquet",
            "calibrated/ferkd/_part-00001.json",
        ),
    ),
    (
        DENSE,
        "train",
        view(None),
        ("soft/part-00001.zarr/prob/zarr.json", "soft/part-00001.zarr/prob/c/0/0/0"),
    ),
    (AUGMENTED, "train", view(None), ("crops/part-00001.parquet",)),
]
CASES = [
    pytest.param(world, read, file, id=f"{name} {world} {file}")
    for world, name, read, files in READERS
    for file in files
]


def publish_scores(project: Project) -> None:
    """Scores named `hard`, as stage score publishes them."""
    table = images.load(project.layout)
    inputs = {"images": scores.images_digest(table)}
    lineage: dict[str, Any] = {"revision": 1, "params": {}, "inputs": inputs}
    key = sha256_json(lineage)
    writer = PartWriter(project.layout, scores.ARTIFACT, "hard", "score", key, lineage)
    values = {"image_id": range(NUM_IMAGES), "score": [0.5 * n for n in range(NUM_IMAGES)]}
    writer.publish_table(make_table(SCORES, {n: [*v] for n, v in values.items()}), {})


@pytest.fixture(scope="module")
def worlds(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Every test leaves them as they were."""
    top = tmp_path_factory.mktemp("readers")
    projects: dict[str, Project] = {}
    for name, changes in CHANGES.items():
        projects[name] = copy_project(made, top / name)
        with chdir(projects[name].folder):
            if name == SPARSE:
                publish_scores(projects[name])
                chosen = {"chosen": SELECT["calibrate"]["chosen"]}
                projects[name].run("calibrate", calibrate=chosen)
            else:
                made_from = ("compress",) if name == DENSE else ("sample", "infer", "compress")
                projects[name].run(*made_from, "calibrate", **changes)
    other = copy_project(made, top / "other")
    with chdir(other.folder):
        (other.folder / "images/ant/0.jpg").unlink()
        other.run("index", "sample", "infer", "compress", "calibrate", sample={"seed": 6})
        return Worlds(projects, other.tree())


@contextmanager
def in_world(worlds: Worlds, name: str) -> Iterator[Project]:
    project = worlds.by_name[name]
    with chdir(project.folder):
        yield project


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Whatever happens to a file, it is there again afterwards."""
    data = path.read_bytes()
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.write_bytes(data)


def empty(path: Path, rng: random.Random, worlds: Worlds) -> None:
    path.write_bytes(b"")


def cut(path: Path, rng: random.Random, worlds: Worlds) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def zeros_at_the_end(path: Path, rng: random.Random, worlds: Worlds) -> None:
    data = path.read_bytes()
    start = rng.randrange(len(data) - 1)
    path.write_bytes(data[:start] + bytes(len(data) - start))


def deleted(path: Path, rng: random.Random, worlds: Worlds) -> None:
    path.unlink()


def folder(path: Path, rng: random.Random, worlds: Worlds) -> None:
    path.unlink()
    path.mkdir()


def link_to_nothing(path: Path, rng: random.Random, worlds: Worlds) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def of_other_shard(path: Path, rng: random.Random, worlds: Worlds) -> None:
    """Or, where there are no shards, another file that lies beside it."""
    other = Path(str(path).replace("part-00001", "part-00002"))
    beside = [file for file in sorted(path.parent.iterdir()) if file.is_file() and file != path]
    path.write_bytes((other if other != path and other.exists() else beside[0]).read_bytes())


def of_other_store(path: Path, rng: random.Random, worlds: Worlds) -> None:
    data = worlds.other.get(path.as_posix(), b"")
    path.write_bytes(data if data != path.read_bytes() else b"of another store")


def flipped(path: Path, rng: random.Random, worlds: Worlds) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def some_damages(case: str) -> list[Damage]:
    """One flip, both swaps and half of the others, drawn for each case; all in a soak."""
    others = [empty, cut, zeros_at_the_end, deleted, folder, link_to_nothing]
    swaps = [of_other_shard, of_other_store]
    if rounds(1) > 1:
        return [*others, *swaps, *[flipped] * rounds(2)]
    rng = random.Random(case)
    return [flipped, *swaps, *rng.sample(others, 3)]


def refused(project: Project, read: Read, path: Path, told: str) -> str:
    """What the reader says; it must name the file or its part, and what to do, in one line."""
    with pytest.raises(DataError) as caught:
        read(project)
        raise AssertionError(f"{told}: {path} was read")
    said = str(caught.value)
    artifact = Path(*path.parts[: 3 if path.parts[1] == "calibrated" else 2])
    assert str(artifact) in said, (told, said)
    assert "run `ferkd-pipeline" in said or "run the stage" in said, (told, said)
    assert "\n" not in said, (told, said)
    return said


@pytest.mark.parametrize(("world", "read", "file"), CASES)
def test_readers_refuse_every_damage(worlds: Worlds, world: str, read: Read, file: str) -> None:
    path = Path("labels") / file
    with in_world(worlds, world) as project:
        before = without_manifests(project)
        for number, damage in enumerate(some_damages(f"{world} {file}")):
            told = f"{damage.__name__} {number} of {file}"
            with kept(path):
                damage(path, random.Random(told), worlds)
                refused(project, read, path, told)
            assert without_manifests(project) == before, told


def without_manifests(project: Project) -> dict[str, bytes]:
    """The store but for what a run of one shard withdraws."""
    return {name: data for name, data in project.tree().items() if "_manifest" not in name}


@pytest.mark.parametrize("world", CHANGES)
def test_undamaged_files_are_read(worlds: Worlds, world: str) -> None:
    """Else the refusals above would say nothing."""
    with in_world(worlds, world) as project:
        before = without_manifests(project)
        for own, _, read, _ in READERS:
            if own == world:
                read(project)
        assert without_manifests(project) == before


@pytest.mark.parametrize("name", ["predictions", "soft", "calibrated/ferkd"])
def test_whole_parts_of_another_store_are_refused(worlds: Worlds, name: str) -> None:
    """Files and entry fit each other, and nothing else."""
    readers = {"predictions": "compress", "soft": "train", "calibrated/ferkd": "train"}
    with in_world(worlds, SPARSE) as project:
        aside = Path("aside")
        shutil.copytree("labels", aside)
        try:
            for path, data in worlds.other.items():
                if path.startswith(f"labels/{name}/") and "part-00001" in path:
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    Path(path).write_bytes(data)
            read = stage("compress") if readers[name] == "compress" else view("ferkd")
            said = refused(project, read, Path("labels") / name / "part-00001", name)
            assert "was made from other" in said or "than" in said
        finally:
            shutil.rmtree("labels")
            aside.rename("labels")


VERSIONED = [
    ("infer", stage("infer"), "crops/_part-00001.json"),
    ("compress", stage("compress"), "predictions/_part-00001.json"),
    ("calibrate", stage("calibrate"), "soft/_part-00001.json"),
    ("calibrate", stage("calibrate"), "calibrated/ferkd/_fit.json"),
    ("train", view("ferkd"), "calibrated/ferkd/_part-00001.json"),
]


@pytest.mark.parametrize("version", [0, 2])
@pytest.mark.parametrize(("name", "read", "file"), VERSIONED)
def test_other_format_versions_are_refused(
    worlds: Worlds, name: str, read: Read, file: str, version: object
) -> None:
    """A newer one is not called damage: to make it again would lose it."""
    path = Path("labels") / file
    with in_world(worlds, SPARSE) as project, kept(path):
        said = json.loads(path.read_bytes())
        said.pop("sha256")
        said["format_version"] = version
        path.write_bytes(pretty_json({**said, "sha256": sha256_json(said)}))
        with pytest.raises(DataError) as caught:
            read(project)
        told = str(caught.value)
        assert str(path) in told and "format version" in told
        is_newer = isinstance(version, int) and version > 1
        assert ("upgrade ferkd-pipeline" in told) == is_newer
        assert ("run its stage" in told) == (not is_newer)


def test_predictions_that_are_damaged_are_not_taken_over(worlds: Worlds, tmp_path: Path) -> None:
    """Where borders of shards move, infer copies rows of earlier shards: never wrong ones."""
    changed: dict[str, Any] = {"store": {"num_shards": 2}}
    found = []
    for is_damaged in (False, True):
        project = copy_project(worlds.by_name[SPARSE], tmp_path / str(is_damaged))
        with chdir(project.folder):
            if is_damaged:
                for number, path in enumerate(sorted(Path("labels/predictions").rglob("c/*/*/*"))):
                    flipped(path, random.Random(number), worlds)
            project.run("sample", "infer", **changed)
            found.append(project.tree("labels/predictions"))
    assert found[0] == found[1]

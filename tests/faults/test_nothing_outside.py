"""Paths that lead out of the project, and files of others within: read perhaps, never deleted."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ferkd_pipeline import cli
from tests.world import PARAMS, Project, Tree, merged, write_images

EVERY = ("sample", "infer", "compress", "calibrate")
DEAD = 2**22 + 1
"""No process has so high a number."""


def run(*stages: str) -> None:
    for name in stages:
        assert cli.main(["stage", name]) == 0, name


def tree(top: Path) -> Tree:
    """Every file below a folder, and where links point."""
    paths = [path for path in sorted(top.rglob("*")) if path.is_file() or path.is_symlink()]
    return {
        path.relative_to(top).as_posix(): (
            os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        )
        for path in paths
    }


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody else's, beside the project, which nobody may change."""
    top = tmp_path / "outside"
    names = (
        *("notes.txt", "images/thesis.txt", "crops/holiday-00099.jpg", "soft/part-00099.txt"),
        *(
            "soft/_notes-00001.parquet",
            "soft/face-00001.png",
            "calibrated/mine/plan.txt",
            "calibrated/mine/part-00001.parquet",
        ),
        *("predictions/run-00099.zarr/zarr.json", "work/infer/results/a.txt"),
        *("work/thesis/chapter/_part-00000.json", "results/train/best/model.pt", "view/x/y.npy"),
        *("view/notes/meta.json", "student/model.json", "student/my-own.txt", "done/train.txt"),
        *("locks/door.txt", "scores/game.parquet"),
    )
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"digest": "mine"}) if name.endswith(".json") else name
        (top / name).write_text(text)
    before = tree(top)
    yield top
    now = tree(top)
    lost = [name for name in before if now.get(name) != before[name]]
    assert lost == [], lost


def test_a_store_elsewhere_beside_files_of_others(own: Project, outside: Path) -> None:
    """A root whose folders hold files of somebody else, of names much like ours."""
    os.rename("images", outside / "pictures")
    changes: dict[str, Any] = {
        "store": {"root": "../outside"},
        "index": {"images": "../outside/pictures"},
    }
    pictures = tree(outside / "pictures")
    shutil.rmtree("labels")
    own.write_params(**changes)
    run("index", *EVERY)
    own.write_params(**merged(changes, {"store": {"num_shards": 2}, "calibrate": {"shares": None}}))
    run(*EVERY)
    assert not list(outside.rglob("part-00002.*"))
    assert not (outside / "calibrated/shares").exists()
    assert cli.main(["store", "gc", "--force"]) == 0
    assert tree(outside / "pictures") == pictures
    here = {path.name for path in Path().iterdir()}
    assert here == {".ferkd", "models", "params.yaml"}  # as before


@pytest.mark.parametrize("name", [".ferkd", "labels/calibrated"])
def test_folders_that_are_links_elsewhere(own: Project, outside: Path, name: str) -> None:
    """People put stores and work on other disks; what else lies there is not ours to delete."""
    link = Path(name)
    if link.is_dir():
        shutil.rmtree(link)
    link.symlink_to(outside, target_is_directory=True)
    own.write_params()
    run(*EVERY)
    own.write_params(store={"num_shards": 2}, calibrate={"shares": None})
    run(*EVERY)
    host = socket.gethostname()
    remnant = outside / f".soft.new-{host}-{DEAD}.tmp"
    remnant.write_text("of a writer that is dead")
    assert cli.main(["store", "gc", "--force"]) == 0
    remnant.unlink(missing_ok=True)
    assert link.is_symlink()


def test_gc_leaves_what_is_no_work_of_ours(
    own: Project, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$FERKD_CACHE is a folder that others use, too, and so may be where .ferkd leads."""
    own.write_params()
    monkeypatch.setenv("FERKD_CACHE", str(outside))
    shutil.rmtree(".ferkd", ignore_errors=True)
    Path(".ferkd").symlink_to(outside, target_is_directory=True)
    assert cli.main(["store", "gc", "--force", "--shared-cache"]) == 0


@pytest.mark.parametrize("kind", ["link", "link to nothing", "file", "link to a file"])
def test_results_that_are_links_are_replaced_and_not_followed(
    own: Project, outside: Path, kind: str
) -> None:
    write_images(Path("val"), num=1)
    target = {
        "link": outside / "student",
        "link to nothing": outside / "nothing",
        "link to a file": outside / "notes.txt",
    }
    for place in (Path("models/student"), Path("metrics/train")):
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            place.write_text("something")
        else:
            place.symlink_to(target[kind])
    own.write_params(
        train={
            "model": {**PARAMS["infer"]["teacher"], "weights": "models/teacher", "input_size": 32},
            "batch_size": 8,
            "crops_per_image": 2,
            "steps": 1,
            "lr": 0.01,
            "device": "cpu",
        }
    )
    run("train")
    assert Path("models/student/model.json").is_file()
    assert not Path("models/student").is_symlink() and not Path("metrics/train").is_symlink()
    shutil.rmtree("models/student")
    Path("models/student").symlink_to(outside / "student")
    run("train")  # taken back from what was kept
    assert not Path("models/student").is_symlink()


def test_files_of_parts_that_are_links_are_replaced_and_not_followed(
    own: Project, outside: Path
) -> None:
    own.write_params()
    before = own.tree()
    for name in (
        "crops/part-00001.parquet",
        "predictions/part-00001.zarr",
        "soft/_part-00001.json",
    ):
        path = Path("labels", name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(outside / ("notes.txt" if path.suffix != ".zarr" else "work"))
    for name in EVERY:
        assert cli.main(["stage", name, "--force"]) == 0
    assert own.tree() == before
    assert not any(path.is_symlink() for path in Path("labels").rglob("*"))


def test_what_only_looks_like_scores_stays(
    own: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores that params.yaml no longer names are deleted; files that are no scores are told."""
    random: dict[str, Any] = {"estimator": "random"}
    own.write_params(score={"one": random, "two": random})
    run("score")
    scores = Path("labels/scores")
    games = {scores / "_game.json": b'{"level": 9}', scores / "game.parquet": b"mine"}
    for path, data in games.items():
        path.write_bytes(data)
    own.write_params(score={"one": random})
    assert cli.main(["stage", "score", "--force"]) == 3
    assert f"Error: {scores}/_game.json" in capsys.readouterr().err
    assert all(path.read_bytes() == data for path, data in games.items())
    (scores / "_game.json").rename("game.json")
    run("score")
    assert {path.name for path in scores.iterdir()} == {
        *("_manifest.json", "_one.json", "one.parquet", "game.parquet")
    }


def test_a_copy_of_a_calibration_stays(own: Project) -> None:
    """Somebody's backup, which no parameter names; a calibration of old goes."""
    own.write_params()
    shutil.copytree("labels/calibrated/ferkd", "labels/calibrated/ferkd before")
    backup = tree(Path("labels/calibrated/ferkd before"))
    Path("labels/calibrated/shares/.plan.txt.tmp").write_text("mine")
    own.write_params(calibrate={"ferkd": PARAMS["calibrate"]["shares"], "shares": None})
    run("calibrate")
    assert tree(Path("labels/calibrated/ferkd before")) == backup
    Path("labels/calibrated/shares/.plan.txt.tmp").unlink()
    run("calibrate")
    assert not Path("labels/calibrated/shares").exists()


def test_a_file_named_much_like_a_leftover_stays(own: Project) -> None:
    own.write_params()
    mine = Path("labels/soft/.part-00001.parquet.before-the-paper.tmp")
    mine.write_text("mine")
    assert cli.main(["stage", "compress", "--force"]) == 0
    assert mine.read_text() == "mine"


def test_entries_cannot_lead_out(own: Project, outside: Path) -> None:
    """An entry lists files by name: with names of others it is none, and nothing is moved."""
    own.write_params()
    for name in ("../../../outside/notes.txt", str(outside / "notes.txt")):
        path = Path("labels/predictions/_part-00001.json")
        said = json.loads(path.read_bytes())
        record = next(iter(said["files"].values()))
        said = {n: value for n, value in said.items() if n != "sha256"}
        path.write_text(json.dumps({**said, "key": "0" * 64, "files": {name: record}}))
        assert cli.main(["stage", "infer", "--dry-run"]) == 0
        assert cli.main(["stage", "compress", "--force"]) == 3
        run("infer")
    assert own.tree("labels/predictions").keys() >= {"labels/predictions/_part-00001.json"}


def test_folders_in_the_way_are_named(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder where a file is to be written may hold anything: it is not deleted."""
    own.write_params()
    for name in ("labels/soft/part-00001.parquet", "labels/soft/_part-00001.json"):
        path = Path(name)
        path.unlink()
        path.mkdir()
        (path / "mine.txt").write_text("mine")
        capsys.readouterr()
        assert cli.main(["stage", "compress", "--force", "--shard", "1"]) == 1
        said = capsys.readouterr().err
        assert f"Error: {path}: is a folder where a file should be" in said, said
        assert "Unexpected" not in said
        assert (path / "mine.txt").read_text() == "mine"
        shutil.rmtree(path)
        run("compress")

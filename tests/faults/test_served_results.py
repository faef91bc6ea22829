"""Damaged models, marks, kept results and metrics: never served, made again where they can be."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from ferkd_pipeline import cli, whole_stages
from stages.shared.contract import NoProgress
from stages.shared.models import load_model
from store import lock
from store.errors import DataError
from tests.faults.soak import rounds
from tests.world import NETWORK, Project, copy_project, write_images

SECTIONS: dict[str, Any] = {
    "train": {
        "model": {**NETWORK, "input_size": 32},
        "batch_size": 8,
        "crops_per_image": 2,
        "steps": 1,
        "lr": 0.01,
        "device": "cpu",
    },
    "evaluate": {"sets": {"val": "val"}, "device": "cpu"},
}
RESULTS = ("models/student", "metrics/train")

Damage = Callable[[Path, random.Random], object]


def flipped(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    renew(path, bytes(data))


def cut(path: Path, rng: random.Random) -> None:
    renew(path, path.read_bytes()[: rng.randrange(path.stat().st_size)])


def empty(path: Path, rng: random.Random) -> None:
    renew(path, b"")


def deep(path: Path, rng: random.Random) -> None:
    renew(path, b"[" * 100_000)


def other_json(path: Path, rng: random.Random) -> None:
    renew(path, rng.choice([b"[]", b"{}", b"7", b"null", b'"key"', b'{"a": 1e999}']))


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def renew(path: Path, data: bytes) -> None:
    """Other bytes as another file: kept results are links to the same bytes on disk."""
    path.unlink()
    path.write_bytes(data)


DAMAGES: list[Damage] = [cut, empty, deep, other_json, folder, *[flipped] * rounds(3)]


@pytest.fixture(scope="module")
def finished(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a student, which tests copy."""
    project = copy_project(made, tmp_path_factory.mktemp("finished") / "own")
    with chdir(project.folder):
        write_images(Path("val"), num=1)
        project.write_params(**SECTIONS)
        train(project)
    return project


@pytest.fixture
def own(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    copied = copy_project(finished, tmp_path / "own")
    monkeypatch.chdir(copied.folder)
    yield copied


def train(project: Project) -> None:
    whole_stages.run(project.params(**SECTIONS), "train", NoProgress())


def why(project: Project) -> str | None:
    return whole_stages.why_incomplete(project.params(**SECTIONS), "train")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_no_damaged_model_is_loaded(own: Project, name: str) -> None:
    """A bit of its card may say other pixels, one of its weights another network."""
    path = Path("models/teacher", name)
    whole, right = path.read_bytes(), load_model(path.parent)
    damages: list[Damage] = [cut, empty, deep, folder, *[flipped] * rounds(25)]
    for number, damage in enumerate(damages):
        told = f"{damage.__name__} {number} of {name}"
        damage(path, random.Random(told))
        try:
            found = load_model(path.parent)
        except DataError as error:
            assert f"{path.parent}" in str(error), told
            assert "\n" not in str(error), told
        else:  # `1e-5` may come to be spelled `1E-5`
            assert (found.digest, found.spec) == (right.digest, right.spec), told
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("command", "model"),
    [
        (("stage", "infer", "--force"), "teacher"),
        (("stage", "evaluate"), "student"),
        (("export", "out.safetensors"), "student"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_every_reader_of_a_model_says_so(
    own: Project,
    command: tuple[str, ...],
    model: str,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path("models", model, name)
    data = path.read_bytes()
    place = data.index(b'"mean"') + 15 if name == "model.json" else len(data) - 2
    renew(path, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    before = own.tree()
    assert cli.main([*command]) == 3
    said = capsys.readouterr().err
    assert f"models/{model}" in said and said.startswith("Error: ") and said.count("\n") == 1
    assert own.tree() == before
    assert not Path("metrics/evaluate").exists() and not Path("out.safetensors").exists()


def test_damaged_marks_cost_a_look_at_kept_results(own: Project) -> None:
    before = own.tree(*RESULTS)
    for number, damage in enumerate(DAMAGES):
        told = f"{damage.__name__} {number}"
        mark = Path(".ferkd/done/train.json")
        damage(mark, random.Random(told))
        assert why(own) is not None, told
        if damage is folder:
            mark.rmdir()
        train(own)
        assert why(own) is None, told
        assert own.tree(*RESULTS) == before, told


def test_damaged_results_are_made_again(own: Project) -> None:
    """Whatever DVC has of them: the mark knows the SHA-256 of what was written."""
    before = own.tree(*RESULTS)
    for number, name in enumerate(sorted(before)):
        told = f"{number} of {name}"
        flipped(Path(name), random.Random(told))
        assert why(own) == "its results are missing or were changed", told
        train(own)
        assert own.tree(*RESULTS) == before, told
        assert why(own) is None


def test_damaged_kept_results_are_not_taken_back(own: Project) -> None:
    """Files of a result, and what was said of it."""
    before = own.tree(*RESULTS)
    shelves = Path(".ferkd/results/train")
    names = sorted(path.relative_to(shelves) for path in shelves.rglob("*") if path.is_file())
    for name in names:
        for top in RESULTS:
            shutil.rmtree(top)
        damage = flipped if name.name != "report.json" else deep
        damage(shelves / name, random.Random(str(name)))
        report = whole_stages.run(own.params(**SECTIONS), "train", NoProgress())
        assert report.numbers["steps"] == 1
        assert own.tree(*RESULTS) == before, name


def test_what_was_said_of_a_kept_result_is_checked(own: Project) -> None:
    """Its numbers are shown to people: one digit is as wrong as another file."""
    (path,) = Path(".ferkd/results/train").rglob("report.json")
    data = path.read_bytes()
    place = data.index(b'"final_loss":') + 14
    renew(path, data[:place] + b"7" + data[place + 1 :])
    assert path.read_bytes() != data
    shutil.rmtree("models/student")
    report = whole_stages.run(own.params(**SECTIONS), "train", NoProgress())
    assert report.numbers["final_loss"] == json.loads(data)["numbers"]["final_loss"]


def test_damaged_leases_stop_nobody(own: Project) -> None:
    path = Path(".ferkd/locks/train.lease")
    for data in (
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"host": "x", "pid": 1e999, "beat": 1e999}',
        b"\xff",
    ):
        path.write_bytes(data)
        assert lock.read_lease(path) is None
        with lock.hold(path.with_suffix(".lock")):
            assert lock.read_lease(path) is not None
        assert not path.exists()

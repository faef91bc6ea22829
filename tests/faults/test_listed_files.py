"""Files beside the parts: manifests, lists of rejects and of suspects; damaged, they are named."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ferkd_pipeline import cli
from store import tables
from store.errors import DataError
from store.notebook.label_store import LabelStore
from tests.faults.soak import rounds
from tests.world import Project, copy_project

MANIFEST = Path("labels/crops/_manifest.json")
REJECTS = Path("labels/predictions/_rejects-00000.parquet")
SUSPECTS = Path("labels/calibrated/keep/_suspects-00000.parquet")
OF_INDEX = Path("labels/rejects/index.parquet")
CHANGES: dict[str, Any] = {
    "infer": {"max_reject_share": 0.2},
    "calibrate": {
        "keep": [{"step": "noise", "agreement": 0.51, "confidence": 0, "target_below": 1}],
        "ferkd": None,
        "shares": None,
    },
}


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(1, path.stat().st_size)])


def empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def deep(path: Path, _: random.Random) -> None:
    path.write_bytes(b"[" * 100_000)


def another(path: Path, _: random.Random) -> None:
    """A file of the same kind, of another artifact or part."""
    other = "labels/soft/_manifest.json" if path == MANIFEST else "labels/crops/part-00001.parquet"
    shutil.copy(other, path)


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (flip, cut, empty, deep, another)


@pytest.fixture(scope="module")
def listed(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a file that cannot be used, an image that vanished, and suspects."""
    project = copy_project(made, tmp_path_factory.mktemp("listed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        Path("images/ant/empty.jpg").write_bytes(b"")
        project.run("index", "sample", **CHANGES)
        Path("images/ant/1.png").unlink()
        for name in ("predictions", "calibrated"):
            shutil.rmtree(Path("labels", name))
        project.write_params(**CHANGES)
        project.run("infer", "compress", "calibrate", **CHANGES)
        assert cli.main(["record", "sample"]) == 0 and cli.main(["record", "compress"]) == 0
    assert all((project.folder / path).is_file() for path in (MANIFEST, REJECTS, SUSPECTS))
    return project


@pytest.fixture
def mine(listed: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    copied = copy_project(listed, tmp_path / "mine")
    monkeypatch.chdir(copied.folder)
    return copied


def verified(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    return cli.main(["store", "verify"]), capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_manifests(
    mine: Project, damage: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Stages do not read them; verify names what is wrong, and record writes it anew."""
    before = mine.tree()
    for number in range(rounds(1) if damage in (flip, cut) else 1):
        damage(MANIFEST, random.Random(f"{damage.__name__} {number}"))
        code, said = verified(capsys)
        assert code == 3 and str(MANIFEST) in said, (number, said)
        assert cli.main(["stage", "compress", "--force"]) == 0
        assert cli.main(["record", "sample"]) == 0
        assert cli.main(["record", "compress"]) == 0
        assert mine.tree() == before


@pytest.mark.parametrize("path", [REJECTS, SUSPECTS, OF_INDEX], ids=lambda path: path.parts[1])
def test_lists(mine: Project, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads one through this package is told, and verify names it."""
    data = path.read_bytes()
    for damage in DAMAGES:
        for number in range(rounds(1) if damage in (flip, cut) else 1):
            damage(path, random.Random(f"{damage.__name__} {number}"))
            with pytest.raises(DataError, match=path.name):
                tables.read_table(path)
            code, said = verified(capsys)
            assert code == 3 and str(path) in said, (damage, number, said)
            if path == OF_INDEX:
                with pytest.raises(DataError, match=path.name):
                    LabelStore(Path("labels")).dataset("rejects")
            path.write_bytes(data)
    assert verified(capsys)[0] == 0


def test_lists_that_are_lost_are_made_again(mine: Project) -> None:
    """One is a file of its part, which is not complete without it."""
    before = mine.tree()
    for path, stage in ((REJECTS, "infer"), (SUSPECTS, "calibrate")):
        path.unlink()
        assert cli.main(["stage", stage]) == 0
        assert path.read_bytes() == before[str(path)]

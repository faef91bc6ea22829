import subprocess
from pathlib import Path

import pytest
import yaml

from ferkd_pipeline import cli, params, recipes, scaffold


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photos/train and photos/val of two classes; no git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            (folder / "1.jpg").write_bytes(b"")
    return tmp_path


def init(*more: str) -> int:
    folders = ["--images", "photos/train", "--val", "photos/val"]
    return cli.main(["init", "mine", "--recipe", "quick", *folders, *more])


def test_it_writes_a_project(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init() == 0
    captured = capsys.readouterr()
    assert captured.out == (
        "mine: wrote params.yaml, dvc.yaml, .gitignore, .dvcignore\nNext: cd mine && dvc repro\n"
    )
    assert "not a git repository" in captured.err
    assert "no_scm = true" in (here / "mine/.dvc/config").read_text().lower()
    values = params.load(here / "mine/params.yaml")
    assert values.section("index").model_dump()["images"] == "../photos/train"
    stages = yaml.safe_load((here / "mine/dvc.yaml").read_text())["stages"]
    assert list(stages) == [
        "index",
        "teacher",
        "sample",
        "infer",
        "compress",
        "calibrate",
        "train",
        "evaluate",
        "report",
    ]
    assert stages["index"]["deps"] == ["../photos/train"]
    for name in ("teacher", "train", "evaluate"):
        assert "../photos/val" in stages[name]["deps"]
    assert stages["infer"]["outs"] == [{"labels/predictions": {"persist": True}}]
    assert not any("stages/" in dep for entry in stages.values() for dep in entry["deps"])
    assert "/labels/" in (here / "mine/.gitignore").read_text().splitlines()


def test_absolute_folders_stay_absolute(here: Path) -> None:
    train, val = str(here / "photos/train"), str(here / "photos/val")
    assert cli.main(["init", "d", "--recipe", "quick", "--images", train, "--val", val]) == 0
    assert params.load(here / "d/params.yaml").section("index").model_dump()["images"] == train


def test_folders_may_be_seen_from_the_project(here: Path) -> None:
    (here / "photos").rename(here / "data")
    (here / "mine").mkdir()
    (here / "data").rename(here / "mine/data")
    assert cli.main(["init", "mine", "--recipe", "quick"]) == 0
    values = params.load(here / "mine/params.yaml")
    assert values.section("index").model_dump()["images"] == "data/train"


def test_strange_names_survive_yaml(here: Path) -> None:
    strange = here / "photos/it's: 100 % #1"
    (here / "photos/train").rename(strange)
    arguments = ["--images", str(strange), "--val", "photos/val"]
    assert cli.main(["init", "mine", "--recipe", "quick", *arguments]) == 0
    values = params.load(here / "mine/params.yaml")
    assert values.section("index").model_dump()["images"] == str(strange)


def test_it_does_not_overwrite(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init() == 0
    edited = here / "mine/params.yaml"
    edited.write_text("mine: 1\n")
    assert init() == 2
    assert "params.yaml is there already" in capsys.readouterr().err
    assert edited.read_text() == "mine: 1\n"
    assert init("--force") == 0
    assert edited.read_text() != "mine: 1\n"


def test_ignore_files_gain_lines_and_lose_none(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine/.gitignore").write_text("secret\n/models/")
    assert init() == 0
    assert (here / "mine/.gitignore").read_text() == (
        "secret\n/models/\n/labels/\n/data/\n/.ferkd/\n"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--recipe", "fast"], "--recipe fast: no such recipe; there are: fast_meal_v2, "),
        (["--recipe", "quick", "--images", "absent"], "--images absent: no such folder"),
        (["--recipe", "quick", "--val", "photos/val/cat"], "must hold a folder for each class"),
    ],
)
def test_wrong_arguments_write_nothing(
    arguments: list[str], complaint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["init", "mine", "--images", "photos/train", "--val", "photos/val", *arguments]
    assert cli.main(given) == 2
    assert complaint in capsys.readouterr().err
    assert not (here / "mine").exists()


def test_a_huge_folder_is_no_dependency(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaffold, "MAX_FILES_TRACKED", 2)
    assert init() == 0
    assert "so DVC does not watch it" in capsys.readouterr().err
    stages = yaml.safe_load((here / "mine/dvc.yaml").read_text())["stages"]
    assert "deps" not in stages["index"]


def test_dvc_is_set_up_in_a_git_repository(here: Path) -> None:
    (here / "mine").mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=here / "mine", check=True)
    assert init() == 0
    config = (here / "mine/.dvc/config").read_text()
    assert "reflink,hardlink,copy" in config
    assert "analytics = false" in config


def test_the_list_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--list"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()] == list(recipes.names())


MORE = """
score:
  chance: {estimator: random}
"""


def test_update_writes_what_came_to_params_and_keeps_what_is_the_users(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init() == 0
    path, dvc_path = here / "mine/params.yaml", here / "mine/dvc.yaml"
    text = path.read_text() + MORE
    before = "    - step: ferkd\n      preset: auto\n"
    assert before in text
    text = text.replace(before, before + "      validation: labels-val\n")
    path.write_text(text)
    stages = yaml.safe_load(dvc_path.read_text())
    stages["stages"]["mine"] = {"cmd": "true", "deps": ["x"]}
    old = yaml.safe_dump(stages)
    dvc_path.write_text(old)
    capsys.readouterr()
    assert cli.main(["init", "mine", "--update"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("mine: wrote dvc.yaml, ")
    assert "dvc.yaml.bak" in captured.err
    assert path.read_text() == text
    assert (here / "mine/dvc.yaml.bak").read_text() == old
    made = yaml.safe_load(dvc_path.read_text())["stages"]
    assert made["score"]["outs"] == [{"labels/scores": {"persist": True}}]
    assert {"labels/scores", "labels-val/soft"} <= set(made["calibrate"]["deps"])
    assert made["mine"] == {"cmd": "true", "deps": ["x"]}
    assert "../photos/val" in made["train"]["deps"]
    assert "/labels-val/" in (here / "mine/.gitignore").read_text().splitlines()
    assert cli.main(["init", "mine", "--update"]) == 0
    assert yaml.safe_load(dvc_path.read_text())["stages"] == made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mine", "--update"], "mine/params.yaml"),
        (["mine", "--update", "--recipe", "quick"], "--update takes params.yaml as it is"),
        (["mine", "--update", "--force"], "--update takes params.yaml as it is"),
    ],
)
def test_update_needs_a_project_and_no_recipe(
    words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (here / "mine").exists()


def test_force_keeps_what_it_writes_over(here: Path) -> None:
    assert init() == 0
    (here / "mine/params.yaml").write_text("store: {root: theirs}\n")
    assert init("--force") == 0
    assert (here / "mine/params.yaml.bak").read_text() == "store: {root: theirs}\n"
    assert not (here / "mine/dvc.yaml.bak").exists()  # it is the same

"""What `ferkd-pipeline init` makes: a project's folder around the user's own images."""

import importlib.util
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ferkd_pipeline import dvc_file, params, recipes, stage_table, yaml_file
from store.atomic import write_bytes
from store.errors import ParamsError

MAX_FILES_TRACKED = 100_000
"""From so many images on, DVC would need minutes to look at each before every run."""

_MADE_BY_RECIPE = ("params.yaml", "dvc.yaml")
_IGNORED_BY_GIT = ("/data/", "/models/", "/.ferkd/")
_IGNORED_BY_DVC = ("__pycache__/", "*.pyc", ".ferkd/")
_DVC_SETTINGS = {"core.analytics": "false", "cache.type": "reflink,hardlink,copy"}

_DVC_YAML = """\
# The data's way: one DVC stage an arrow. `dvc repro` runs what changed, `dvc dag` draws it.
# Stages that work shard by shard also run on a cluster; see `ferkd-pipeline record --help`.
"""


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Class folders of images, as given on the command line."""

    text: str
    """Path to write: absolute, or relative to the project's folder."""
    num_files: int
    """Files in it; counting ends at `MAX_FILES_TRACKED`."""


@dataclass(frozen=True, slots=True)
class Scaffold:
    """What was written, and what is left to do."""

    written: tuple[str, ...]
    """Files, relative to the project's folder."""
    notes: tuple[str, ...]
    """Sentences for people."""


def create(folder: Path, recipe: str, images: Path, val: Path, *, force: bool) -> Scaffold:
    """Write params.yaml, dvc.yaml and ignore files into `folder`, which is made where needed.

    Lines are added to ignore files that are there.

    Args:
        folder: the project's folder.
        recipe: name of a recipe.
        images: class folders of training images; a relative path is seen from the current folder
            or, where nothing is there, from `folder`.
        val: class folders of validation images, likewise.
        force: write over a params.yaml and dvc.yaml that are there.

    Raises:
        ParamsError: no such recipe, no such images, or the files are there already.
    """
    train_folder = find_images(folder, images, "--images")
    val_folder = find_images(folder, val, "--val")
    text = recipes.fill(recipe, train_folder.text, val_folder.text)
    values = params.check(
        Path("params.yaml"), yaml_file.parse_mapping(text, Path(f"{recipe}.yaml"))
    )
    texts = {
        "params.yaml": text,
        "dvc.yaml": _dvc_yaml(values, train_folder, val_folder),
        ".gitignore": _with_lines(
            folder / ".gitignore", (f"/{values.store.root.as_posix()}/", *_IGNORED_BY_GIT)
        ),
        ".dvcignore": _with_lines(folder / ".dvcignore", _IGNORED_BY_DVC),
    }
    present = [name for name in _MADE_BY_RECIPE if (folder / name).exists()]
    if present and not force:
        raise ParamsError(
            f"{folder / present[0]} is there already: choose another folder, or write over it "
            "with --force"
        )
    for name, content in texts.items():
        write_bytes(folder / name, content.encode())
    notes = (*_notes(train_folder, "index"), *_notes(val_folder, "evaluate"))
    return Scaffold(tuple(texts), (*notes, *set_up_dvc(folder)))


def find_images(folder: Path, given: Path, option: str) -> ImageFolder:
    """Find the class folders that a path stands for; see `create`.

    Raises:
        ParamsError: there is no such folder, or it holds no folders.
    """
    places = [given] if given.is_absolute() or given.is_dir() else [folder / given]
    found = places[0]
    if not found.is_dir():
        raise ParamsError(f"{option} {given}: no such folder")
    if not any(entry.is_dir() for entry in found.iterdir()):
        raise ParamsError(f"{option} {given}: must hold a folder for each class, with its images")
    inside = found if given.is_absolute() else os.path.relpath(found, folder)
    num_files = sum(1 for _ in itertools.islice(_files(found), MAX_FILES_TRACKED))
    return ImageFolder(Path(inside).as_posix(), num_files)


def _files(folder: Path) -> Iterator[str]:
    for _, _, names in os.walk(folder, followlinks=True):
        yield from names


def _dvc_yaml(values: params.Params, train: ImageFolder, val: ImageFolder) -> str:
    table = [info for info in stage_table.STAGES if info.name in values.sections]
    huge = {each.text for each in (train, val) if each.num_files >= MAX_FILES_TRACKED}
    images = {
        stage: [folder for folder in folders if folder not in huge]
        for stage, folders in dvc_file.image_folders(values.sections).items()
    }
    stages = dvc_file.stages(table, root=values.store.root.as_posix(), images=images)
    return _DVC_YAML + yaml.safe_dump({"stages": stages}, sort_keys=False, width=100)


def _notes(images: ImageFolder, stage: str) -> list[str]:
    if images.num_files < MAX_FILES_TRACKED:
        return []
    return [
        f"{images.text} holds {MAX_FILES_TRACKED:,} files or more, so DVC does not watch it: after "
        f"a change in it, run `dvc repro --force --single-item {stage}` and `dvc repro`"
    ]


def _with_lines(path: Path, lines: tuple[str, ...]) -> str:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    missing = [line for line in lines if line not in text.splitlines()]
    if text and not text.endswith("\n"):
        text += "\n"
    return text + "".join(f"{line}\n" for line in missing)


def set_up_dvc(folder: Path) -> list[str]:
    """Make `folder` a DVC project where that is possible; return what is left for the user."""
    if (folder / ".dvc").is_dir():
        return []
    if importlib.util.find_spec("dvc") is None:
        return [
            "DVC is not installed: the stages run without it, one by one; for `dvc repro`, "
            "`pip install 'ferkd-pipeline[dvc]'`, then `git init && dvc init` in the folder"
        ]
    top = _git_top(folder)
    notes = []
    if top is None:
        nested = ["--no-scm"]
        notes.append(
            "not a git repository, so DVC was set up without; to keep the lineage in git later: "
            "`git init && dvc config --unset core.no_scm` in the folder"
        )
    else:
        nested = [] if top == folder.resolve() else ["--subdir"]
    commands = [["init", "--quiet", *nested]]
    commands += [["config", "--quiet", name, value] for name, value in _DVC_SETTINGS.items()]
    for command in commands:
        done = _run([sys.executable, "-m", "dvc", *command], folder)
        if done.returncode:
            return [f"`dvc {' '.join(command)}` failed: {' '.join(done.stderr.split())}"]
    return notes


def _git_top(folder: Path) -> Path | None:
    try:
        done = _run(["git", "rev-parse", "--show-toplevel"], folder)
    except FileNotFoundError:
        return None
    return Path(done.stdout.strip()).resolve() if done.returncode == 0 else None


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )

"""What `ferkd-pipeline init` makes: a project's folder around the user's own images."""

import contextlib
import importlib.util
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
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
        force: write over a params.yaml and dvc.yaml that are there; these stay as ``.bak``.

    Raises:
        ParamsError: no such recipe, no such images, or the files are there already.
    """
    recipes.check(recipe)  # before the folders, whose defaults are nobody's
    train_folder = find_images(folder, images, "--images")
    val_folder = find_images(folder, val, "--val")
    text = recipes.fill(recipe, train_folder.text, val_folder.text)
    values = params.check(
        Path("params.yaml"), yaml_file.parse_mapping(text, Path(f"{recipe}.yaml"))
    )
    texts = {
        "params.yaml": text,
        "dvc.yaml": _dvc_yaml(values, (train_folder, val_folder), {}),
        **_ignore_files(folder, values),
    }
    # As they are to be written: of an earlier run, which perhaps was killed then.
    present = [name for name in _MADE_BY_RECIPE if _is_other(folder / name, texts[name])]
    if present and not force:
        raise ParamsError(
            f"{folder / present[0]} is there already: choose another folder, write dvc.yaml anew "
            "from it with --update, or write over it with --force"
        )
    kept = [_keep_old(folder / name, content) for name, content in texts.items()]
    for name, content in texts.items():
        write_bytes(folder / name, content.encode())
    notes = (*_notes((train_folder, val_folder)), *filter(None, kept))
    return Scaffold(tuple(texts), (*notes, *set_up_dvc(folder)))


def update(folder: Path) -> Scaffold:
    """Write dvc.yaml anew from the params.yaml of a project; stages of the user's own stay.

    Raises:
        ParamsError: there is no params.yaml, or something in it or in dvc.yaml is wrong.
    """
    values = params.load(folder / "params.yaml")
    path = folder / "dvc.yaml"
    before = yaml_file.read_mapping(path) if path.exists() else {}
    known = {*stage_table.STAGE_NAMES, "report"}
    stages = before.get("stages") or {}
    if not isinstance(stages, dict):
        raise ParamsError(f"{path}: stages is no mapping; mend it, or delete the file")
    own = {name: stage for name, stage in stages.items() if name not in known}
    named = {text for texts in dvc_file.image_folders(values.sections).values() for text in texts}
    folders = tuple(
        ImageFolder(text, _count_files(folder / text))
        for text in sorted(named)
        if (folder / text).is_dir()
    )
    texts = {"dvc.yaml": _dvc_yaml(values, folders, own), **_ignore_files(folder, values)}
    kept = _keep_old(path, texts["dvc.yaml"])
    for name, content in texts.items():
        write_bytes(folder / name, content.encode())
    return Scaffold(tuple(texts), (*_notes(folders), *filter(None, [kept]), *set_up_dvc(folder)))


def _ignore_files(folder: Path, values: params.Params) -> dict[str, str]:
    roots = [values.store.root.as_posix(), *dvc_file.validation_roots(values.sections)]
    inside = [root for root in roots if not root.startswith(("/", ".."))]
    return {
        ".gitignore": _with_lines(
            folder / ".gitignore", (*(f"/{root}/" for root in inside), *_IGNORED_BY_GIT)
        ),
        ".dvcignore": _with_lines(folder / ".dvcignore", _IGNORED_BY_DVC),
    }


def _keep_old(path: Path, content: str) -> str | None:
    """Keep a file that is about to be replaced by another text, and say so."""
    if path.name not in _MADE_BY_RECIPE or not _is_other(path, content):
        return None
    write_bytes(path.with_name(f"{path.name}.bak"), path.read_bytes())
    return f"what {path.name} was before lies in {path.name}.bak"


def _is_other(path: Path, content: str) -> bool:
    return path.exists() and path.read_bytes() != content.encode()


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
    return ImageFolder(Path(inside).as_posix(), _count_files(found))


def _count_files(folder: Path) -> int:
    return sum(1 for _ in itertools.islice(_files(folder), MAX_FILES_TRACKED))


def _files(folder: Path) -> Iterator[str]:
    for _, _, names in os.walk(folder, followlinks=True):
        yield from names


def _dvc_yaml(
    values: params.Params, folders: Sequence[ImageFolder], own: Mapping[str, object]
) -> str:
    """The text of dvc.yaml; ``own`` are stages of the user's, which come last."""
    table = [info for info in stage_table.STAGES if info.name in values.sections]
    huge = {each.text for each in folders if each.num_files >= MAX_FILES_TRACKED}
    images = {
        stage: [folder for folder in named if folder not in huge]
        for stage, named in dvc_file.image_folders(values.sections).items()
    }
    stages = dvc_file.stages(table, root=values.store.root.as_posix(), images=images)
    return _DVC_YAML + yaml.safe_dump({"stages": {**stages, **own}}, sort_keys=False, width=100)


def _notes(folders: Sequence[ImageFolder]) -> list[str]:
    return [
        f"{each.text} holds {MAX_FILES_TRACKED:,} files or more, so DVC does not watch it: after "
        "a change in it, run `dvc repro --force --single-item` of the stages that read it, and "
        "`dvc repro`"
        for each in folders
        if each.num_files >= MAX_FILES_TRACKED
    ]


def _with_lines(path: Path, lines: tuple[str, ...]) -> str:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    missing = [line for line in lines if line not in text.splitlines()]
    if text and not text.endswith("\n"):
        text += "\n"
    return text + "".join(f"{line}\n" for line in missing)


def set_up_dvc(folder: Path) -> list[str]:
    """Make `folder` a DVC project where that is possible; return what is left for the user."""
    # As long as it lies there, a .dvc is what an earlier run made before it was killed.
    begun = folder / ".ferkd" / "dvc-begun"
    if (folder / ".dvc").is_dir() and not begun.exists():
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
    write_bytes(begun, b"")
    again = ["--force"] if (folder / ".dvc").is_dir() else []
    commands = [["init", "--quiet", *nested, *again]]
    commands += [["config", "--quiet", name, value] for name, value in _DVC_SETTINGS.items()]
    for command in commands:
        done = _run([sys.executable, "-m", "dvc", *command], folder)
        if done.returncode:
            return [f"`dvc {' '.join(command)}` failed: {' '.join(done.stderr.split())}"]
    begun.unlink()
    with contextlib.suppress(OSError):  # it holds something else
        begun.parent.rmdir()
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

"""The tiny project that tests of stages, engine and faults share, made once a session."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.world import Project


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> "Project":
    """A complete store of 25 images, 3 shards, 4 crops. Nobody changes it."""
    from tests.world import make_project  # only now: it imports torch

    return make_project(tmp_path_factory.mktemp("made"))


@pytest.fixture
def shared(made: "Project", monkeypatch: pytest.MonkeyPatch) -> Iterator["Project"]:
    """The project itself, as the current folder, to look at."""
    monkeypatch.chdir(made.folder)
    yield made


@pytest.fixture
def own(made: "Project", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Project"]:
    """A copy of the project, as the current folder, to change."""
    from tests.world import copy_project

    copied = copy_project(made, tmp_path / "own")
    monkeypatch.chdir(copied.folder)
    yield copied

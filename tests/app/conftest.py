import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.small_store import build


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a small params.yaml, as the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(
        "store: {root: labels, num_shards: 4}\nsample: {num_crops: 8}\ncompress: {k: 3}\n"
    )
    yield tmp_path


@pytest.fixture(scope="session")
def store_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store-commands")
    build(folder / "labels")
    (folder / "params.yaml").write_text("store: {root: labels, num_shards: 2}\n")
    return folder


@pytest.fixture
def here(store_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project with a small store, as the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(store_project, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FERKD_CACHE", raising=False)
    return folder

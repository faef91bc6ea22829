from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a small params.yaml, as the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(
        "store: {root: labels, num_shards: 4}\nsample: {num_crops: 8}\ncompress: {k: 3}\n"
    )
    yield tmp_path

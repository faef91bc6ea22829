"""Counting what is hashed."""

from pathlib import Path

import pytest

from store import recorded


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were hashed, in order."""
    found: list[Path] = []
    original = recorded.problem_of

    def count(path: Path, *rest: object) -> str | None:
        found.append(path)
        return original(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(recorded, "problem_of", count)
    return found

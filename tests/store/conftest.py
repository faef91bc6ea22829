"""One small label store for a whole session, and copies of it for tests that change files."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from store.layout import Layout
from tests.store.small_store import SPEC, SmallStore, build


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store that no test may change."""
    return build(tmp_path_factory.mktemp("small") / "labels")


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """The same with labels of kind `full`; no test may change it."""
    return build(tmp_path_factory.mktemp("full") / "labels", replace(SPEC, kind="full"))


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[SmallStore], SmallStore]:
    """Gives a copy of a store, to be changed."""

    def copy(original: SmallStore) -> SmallStore:
        root = tmp_path / "labels"
        shutil.copytree(original.root, root)
        return replace(original, layout=Layout.beside(root))

    return copy


@pytest.fixture
def own(small: SmallStore, copy_of: Callable[[SmallStore], SmallStore]) -> SmallStore:
    """A copy of the small store that the test may change."""
    return copy_of(small)

"""Files of a store that no entry lists: what a killed run left, or somebody put there."""

import os
from collections.abc import Iterator
from pathlib import Path

from store import entries, fit_file
from store.check.damage import Damage, remake_command
from store.layout import Layout

_OF_OTHERS = frozenset({".gitignore", ".DS_Store"})
"""What git, DVC and the Finder leave in folders."""


def strays(layout: Layout, names: list[str], listed: set[Path]) -> Iterator[Damage]:
    """Files and links to folders below the root that belong to nothing.

    ``names`` are the artifacts of the store, ``listed`` the files that their entries list.
    """
    known = set(listed)
    for name in names:
        known |= {layout.manifest(name), *entries.entry_paths(layout, name)}
        known |= {fit_file.path_of(layout, name)} if name.startswith("calibrated/") else set()
    folders = {layout.folder("calibrated"), *(layout.folder(name) for name in names)}
    above = {parent for path in known for parent in path.parents}
    # An artifact may lie on another disk; deeper, a link leads to what nobody hashed.
    tops = [layout.root, *sorted(path for path in folders if path.is_symlink())]
    for folder, below, files in (step for top in tops for step in os.walk(top)):
        here = Path(folder)
        for path in sorted(here / name for name in below):
            if path.suffix == ".zarr" and path not in above:
                below.remove(path.name)
                yield Damage(str(path), "belongs to no entry", "delete it, or run its stage again")
            elif path.is_symlink() and path not in folders:
                kind = "is a link to a folder, whose files nobody checks"
                yield Damage(str(path), kind, "replace it by what it points to")
        for path in sorted(here / name for name in files):
            if path not in known and path.name not in _OF_OTHERS:
                yield _stray(layout, path)


def _stray(layout: Layout, path: Path) -> Damage:
    if not path.name.startswith(".") or path.suffix not in (".tmp", ".partial"):
        return Damage(str(path), "belongs to no entry", "delete it, or run its stage again")
    artifact = path.parent.relative_to(layout.root).as_posix()
    kind = "left by a run that was killed, or is running now"
    return Damage(str(path), kind, f"run `{remake_command(artifact)}`, or delete it")

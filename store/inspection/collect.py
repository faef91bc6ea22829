"""What can be deleted beside a store: views, work, marks and remnants of writers that are dead.

Only the work folder (``.ferkd/``) and the cache of training views are looked at, never the store
itself. Links are not followed, and what a live writer may use is left alone: its lease says so.
"""

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from store import atomic, entries, lock
from store.errors import DataError, RetryError
from store.inspection import collect_views
from store.layout import Layout

Kind = Literal["view", "set-aside", "results", "unfinished", "lease", "remnant"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_KEY = re.compile(r"[0-9a-f]{64}")
"""Names of folders of work and results; others, where .ferkd leads elsewhere, are somebody's."""

COSTS: dict[Kind, str] = {
    "view": "training makes it again from the labels, in seconds to minutes",
    "set-aside": "the teacher runs again if parameters or images go back to what they were",
    "results": "a training runs again if DVC deleted its results, or parameters go back",
    "unfinished": "a shard that was interrupted begins again instead of going on",
    "lease": "nothing: its writer is dead",
    "remnant": "nothing: its writer is dead",
}
"""What deleting a thing of each kind costs."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file or folder that can be deleted."""

    kind: Kind
    path: Path
    num_bytes: int
    what: str
    """What it is, in words."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to delete, and what stays."""

    items: list[Item]
    kept: list[Item]
    """Things of these kinds that are in use, or that the store would open."""
    writers: list[str]
    """Live writers, in words; while there is one, nothing may be deleted."""

    @property
    def num_bytes(self) -> int:
        """Of all that can be deleted."""
        return sum(item.num_bytes for item in self.items)


def find(layout: Layout, kinds: Sequence[str] = (), *, shared_cache: bool = False) -> Found:
    """List what can be deleted; changes nothing.

    Args:
        layout: the store.
        kinds: only of these `KINDS`; empty for all.
        shared_cache: whether views in ``$FERKD_CACHE`` that this store would not open can be
            deleted too. Those of other stores that share the folder are among them.
    """
    items: list[Item] = []
    kept: list[Item] = []
    for view in collect_views.views(layout):
        item = Item("view", view.path, size(view.path), view.what)
        is_foreign = "FERKD_CACHE" in os.environ and not shared_cache
        (kept if view.is_wanted or is_foreign else items).append(item)
    items += _work(layout)
    items += _results(layout)
    items += _leases(layout)
    items += _remnants(layout)
    if kinds:
        items = [item for item in items if item.kind in kinds]
        kept = [item for item in kept if item.kind in kinds]
    return Found(items, kept, _writers(layout))


def delete(layout: Layout, found: Found, done: Callable[[Item], None]) -> None:
    """Delete what was found, unless a writer has begun since.

    Raises:
        RetryError: a writer is at work.
    """
    for item in found.items:
        refuse_while_written(layout)
        _check_inside(layout, item.path)
        if item.kind == "lease":
            # Whoever takes the lock and gives it back removes the lease; a live one refuses.
            with lock.hold(item.path.with_suffix(".lock")):
                pass
        else:
            _remove(item.path)
        done(item)


def refuse_while_written(layout: Layout) -> None:
    """Stop where a live process holds a lock of this store.

    Raises:
        RetryError: names the lock and its holder.
    """
    if writers := _writers(layout):
        raise RetryError(f"{writers[0]}; nothing is deleted while it writes: try again later")


def _remove(path: Path) -> None:
    """Delete a file or folder, which is gone at once or not at all for whoever looks for it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f".{path.name}.old-{socket.gethostname()}-{os.getpid()}.tmp")
    os.rename(path, aside)
    shutil.rmtree(aside)


def _check_inside(layout: Layout, path: Path) -> None:
    parent = path.parent.resolve()
    if not any(parent.is_relative_to(top.resolve()) for top in _tops(layout)):
        raise DataError(f"{path} lies outside of {layout.work}; nothing more is deleted")


def _tops(layout: Layout) -> list[Path]:
    return list(dict.fromkeys([layout.work, layout.view_cache()]))


def _folders(parent: Path) -> list[Path]:
    """Folders in a folder, hidden ones and links left out, sorted."""
    if not parent.is_dir() or parent.is_symlink():
        return []
    return [
        path
        for path in sorted(parent.iterdir())
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
    ]


def _folders_of_keys(parent: Path) -> list[Path]:
    return [path for path in _folders(parent) if _KEY.fullmatch(path.name)]


def size(path: Path) -> int:
    """Bytes of a file, or of the files below a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(
        Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names
    )


def _work(layout: Layout) -> Iterator[Item]:
    """Shards set aside, and shards that were interrupted, of every stage."""
    for stage in _folders(layout.work / "work"):
        for folder in _folders_of_keys(stage):
            finished = sorted(folder.glob("_part-*.json"))
            rows = sum(map(_rows, finished))
            if finished:
                plural = "shard" if len(finished) == 1 else "shards"
                what = f"{stage.name}: {len(finished)} finished {plural}, {rows:,} rows"
                yield Item("set-aside", folder, size(folder), what)
            elif any(folder.glob("**/save-*")):
                what = f"{stage.name}: a training that was interrupted"
                yield Item("unfinished", folder, size(folder), what)
            else:
                blocks = sum(1 for _ in (folder / "journal").glob("*.json"))
                done = "1 block" if blocks == 1 else f"{blocks} blocks"
                what = f"{stage.name}: a shard that was interrupted, {done} done"
                yield Item("unfinished", folder, size(folder), what)


def _results(layout: Layout) -> Iterator[Item]:
    """Results of trainings that were kept in case that they are wanted again."""
    for stage in _folders(layout.work / "results"):
        for folder in _folders_of_keys(stage):
            yield Item("results", folder, size(folder), f"{stage.name}: results of a training")


def _rows(path: Path) -> int:
    try:
        return entries.read_entry(path).rows
    except DataError:
        return 0


def _lease_files(layout: Layout) -> list[Path]:
    folders = [layout.work / "locks", layout.view_cache()]
    return sorted(path for folder in folders for path in folder.glob("*.lease"))


def _is_live(path: Path) -> bool:
    """Whether the writer that left this lease may be alive.

    A process of its number says little: numbers are given again. A heart may have stopped while the
    machine slept, and go on: then the lock is still held.
    """
    lease = lock.read_lease(path)
    if lease is not None and lease.host == socket.gethostname() and not lock.is_process(lease.pid):
        return False
    return path.exists() and (lock.is_fresh(path) or lock.is_held(path.with_suffix(".lock")))


def _writers(layout: Layout) -> list[str]:
    found = []
    for path in _lease_files(layout):
        if _is_live(path):
            lease = lock.read_lease(path)
            who = f"process {lease.pid} on {lease.host}" if lease else "a process"
            found.append(f"{path.stem} is being written by {who}")
    return found


def _leases(layout: Layout) -> Iterator[Item]:
    for path in _lease_files(layout):
        if not _is_live(path):
            yield Item("lease", path, size(path), f"of a writer of {path.stem} that was killed")


def _remnants(layout: Layout) -> Iterator[Item]:
    """What writers that are dead left of files and folders that were to appear whole."""
    seen: set[Path] = set()
    for top in _tops(layout):
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if not Path(folder, name).is_symlink()]
            for name in [*names, *files]:
                path = Path(folder, name)
                is_remnant = atomic.LEFTOVER.search(name) and name.startswith(".")
                if is_remnant and path not in seen and not atomic.has_live_writer(path):
                    seen.add(path)
                    yield Item("remnant", path, size(path), "of a file or folder never finished")
            names[:] = [name for name in names if not atomic.LEFTOVER.search(name)]

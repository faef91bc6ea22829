"""Finished shards of an expensive stage that no longer fit, set aside instead of deleted.

DVC deletes plain outs before a run, and one edited comment would cost a GPU week. So predictions
persist, shards whose key differs are moved to ``.ferkd/work/STAGE/KEY/`` before a run, and moved
back when their key is wanted again. Moving renames: a file may be a hardlink into DVC's cache.
"""

from collections.abc import Iterator
from pathlib import Path

from store import entries
from store.atomic import remove, rename, sweep
from store.digest import sha256_file
from store.entries import Entry, FileRecord
from store.errors import DataError
from store.layout import Layout


def set_aside(layout: Layout, artifact: str, stem: str, stage: str) -> bool:
    """Move a finished shard out of the artifact onto the shelf; False where it has no entry."""
    try:
        entry = entries.find_entry(layout, artifact, stem)
    except DataError:
        entry = None
    if entry is None:
        return False
    layout.manifest(artifact).unlink(missing_ok=True)
    _move(entry, layout.folder(artifact), layout.resumable(stage, entry.key))
    return True


def take_back(layout: Layout, artifact: str, stem: str, stage: str, key: str) -> bool:
    """Move a shard of this key from the shelf into the artifact; False where there is none."""
    shelf, folder = layout.resumable(stage, key), layout.folder(artifact)
    try:
        entry = entries.read_entry(shelf / f"_{stem}.json")
    except DataError:
        return False
    if entry.key != key or not _is_whole(entry, shelf, folder):
        return False
    entries.withdraw(layout, artifact, stem)
    for final in (layout.entry(artifact, stem), layout.table(artifact, stem)):
        sweep(final)  # what a run with other parameters left when it was killed
    _move(entry, shelf, folder)
    if not any(shelf.iterdir()):
        shelf.rmdir()
    return True


def _is_whole(entry: Entry, shelf: Path, folder: Path) -> bool:
    """Whether every file is on the shelf, or was moved already by a run that was killed then."""
    return all(
        _has_size(shelf / name, record)
        or (_has_size(folder / name, record) and sha256_file(folder / name) == record.sha256)
        for name, record in entry.files.items()
    )


def _has_size(path: Path, record: FileRecord) -> bool:
    return path.is_file() and path.stat().st_size == record.num_bytes


def finished(layout: Layout, artifact: str, stage: str) -> Iterator[tuple[Entry, Path]]:
    """Every readable finished shard, on the shelf and in the artifact, with its folder."""
    shelf = layout.resumable(stage, "")
    folders = [*sorted(path for path in shelf.glob("*") if path.is_dir()), layout.folder(artifact)]
    for folder in folders:
        for path in sorted(folder.glob("_part-*.json")):
            try:
                yield entries.read_entry(path), folder
            except DataError:
                continue


def _move(entry: Entry, source: Path, target: Path) -> None:
    """Rename an entry's files, the entry last: killed half-way, the same move can be done again."""
    target.mkdir(parents=True, exist_ok=True)
    for top in sorted({name.split("/")[0] for name in entry.files}):
        if (source / top).exists():
            remove(target / top)
            rename(source / top, target / top)
    rename(source / f"_{entry.stem}.json", target / f"_{entry.stem}.json")


def clear(folder: Path) -> None:
    """Delete the working files of a shard that was published, but not a shard set aside there."""
    for path in (folder / "arrays.zarr", folder / "journal", *folder.glob("unfinished-*")):
        remove(path)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()

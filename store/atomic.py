"""Files and folders that appear under their final name only when they are complete.

Everything is written beside its final place under a hidden name, flushed to disk and renamed.
Nothing is ever opened for writing in place: a file may be a hardlink into DVC's cache.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FILES_WORTH_ONE_SYNC = 1000


def fsync_path(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder``, and the folder itself."""
    found = list(os.walk(folder, topdown=False))
    if sum(len(names) for _, _, names in found) > _FILES_WORTH_ONE_SYNC:
        os.sync()  # one flush of the disk is cheaper than one for each of thousands of files
        return
    for directory, _, names in found:
        for name in names:
            fsync_path(Path(directory, name))
        fsync_path(Path(directory))


def remove(path: Path) -> None:
    """Delete a file or a whole folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(final: Path) -> None:
    """Delete what interrupted writers of ``final`` left; call it only as its one writer."""
    for leftover in final.parent.glob(f".{final.name}.*.tmp"):
        remove(leftover)


def _beside(final: Path, purpose: str) -> Path:
    return final.with_name(f".{final.name}.{purpose}-{os.getpid()}.tmp")


@contextmanager
def replace_file(final: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``final`` when the block ends without an error.

    Parent folders are made. On an error the partial file is deleted and ``final`` is untouched.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(final, "new")
    try:
        yield partial
        fsync_path(partial)
        os.replace(partial, final)
        fsync_path(final.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(final: Path, data: bytes) -> None:
    """Write a whole file atomically and durably."""
    with replace_file(final) as partial:
        partial.write_bytes(data)


@contextmanager
def replace_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``final`` when the block ends without an error.

    An older ``final`` is renamed aside before and deleted after. Between the two renames there is
    no folder of that name: readers treat absence as incomplete.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(final, "new")
    remove(partial)
    partial.mkdir()
    try:
        yield partial
        move_folder(partial, final)
    finally:
        remove(partial)


def move_folder(source: Path, final: Path) -> None:
    """Flush ``source`` and rename it to ``final``, an older ``final`` being deleted."""
    fsync_tree(source)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(final, "old")
    remove(aside)
    if final.exists():
        os.rename(final, aside)
    os.rename(source, final)
    fsync_path(final.parent)
    remove(aside)

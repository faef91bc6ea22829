"""Files and folders that appear under their final name only when they are complete.

Everything is written beside its final place under a hidden name, flushed to disk and renamed.
Nothing is ever opened for writing in place: a file may be a hardlink into DVC's cache.
"""

import errno
import glob
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FILES_WORTH_ONE_SYNC = 1000
LEFTOVER = re.compile(r"\.(?:new|old)-(?P<host>[^/]*)-(?P<pid>\d+)\.tmp$")
CANNOT_LINK = (errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_ABANDONED_SECONDS = 24 * 3600.0
"""A leftover of another machine is deleted after this: no write of ours takes as long."""


@contextmanager
def named_in_errors(final: Path, partial: Path | None = None) -> Iterator[None]:
    """Let errors of the disk name ``final`` where they name nothing, or a file in ``partial``.

    The system tells of a full disk without saying which file was written.
    """
    try:
        yield
    except OSError as error:
        names = [Path(n) for n in (error.filename, error.filename2) if isinstance(n, str | Path)]
        is_ours = not names or final in names or any(partial in (n, *n.parents) for n in names)
        is_ours = is_ours or any(LEFTOVER.search(n.name) for n in names)
        if error.errno is not None and is_ours:
            error.filename = str(final)
            if error.filename2 is not None:  # None, once it is set, is shown as a name
                del error.filename2
        raise


def fsync_path(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with named_in_errors(path):
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
        try:
            shutil.rmtree(path)
        except OSError as error:
            error.filename = str(path)  # it names what is in a folder by its last part alone
            raise
    else:
        path.unlink(missing_ok=True)


def _tidy(partial: Path) -> None:
    """Delete what is left of a write; a disk that fails must not hide what went wrong before."""
    with suppress(OSError):
        remove(partial)


def sweep(final: Path) -> None:
    """Delete what interrupted writers of ``final`` left; call it only as its one writer."""
    with named_in_errors(final):
        for leftover in _leftovers(final):
            remove(leftover)


def _sweep_dead(final: Path) -> None:
    """Delete what dead writers of ``final`` left; one that is alive may be writing it now."""
    for leftover in _leftovers(final):
        if not has_live_writer(leftover):
            remove(leftover)


def _leftovers(final: Path) -> list[Path]:
    found = final.parent.glob(f".{glob.escape(final.name)}.*.tmp")
    return sorted(path for path in found if LEFTOVER.search(path.name))


def has_live_writer(leftover: Path) -> bool:
    """Whether the process that writes a leftover may still be at work."""
    name = LEFTOVER.search(leftover.name)
    try:
        if name is None or name["host"] != socket.gethostname():
            return time.time() - leftover.stat().st_mtime < _ABANDONED_SECONDS
        os.kill(int(name["pid"]), 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return True  # a process of another user
    return int(name["pid"]) != os.getpid()


def _beside(final: Path, purpose: str) -> Path:
    return final.with_name(f".{final.name}.{purpose}-{socket.gethostname()}-{os.getpid()}.tmp")


@contextmanager
def replace_file(final: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``final`` when the block ends without an error.

    Parent folders are made, and what killed writers of ``final`` left is deleted. On an error the
    partial file is deleted and ``final`` is untouched.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(final, "new")
    try:
        with named_in_errors(final, partial):
            _sweep_dead(final)
            yield partial
            fsync_path(partial)
            os.replace(partial, final)
            fsync_path(final.parent)
    finally:
        _tidy(partial)


def write_bytes(final: Path, data: bytes) -> None:
    """Write a whole file atomically and durably."""
    with replace_file(final) as partial:
        partial.write_bytes(data)


def write_new(final: Path, data: bytes) -> bool:
    """Write a whole file, not flushed to disk; False where one is there already.

    Of several hosts that write at once one succeeds, also on file systems that only pretend to
    lock.

    Raises:
        OSError: with one of `CANNOT_LINK`, where files cannot be linked.
    """
    _sweep_dead(final)
    partial = _beside(final, "new")
    try:
        with named_in_errors(final, partial):
            partial.write_bytes(data)
            os.link(partial, final)
    except FileExistsError:
        return False
    finally:
        _tidy(partial)
    return True


@contextmanager
def replace_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``final`` when the block ends without an error.

    An older ``final`` is renamed aside before and deleted after. Between the two renames there is
    no folder of that name: readers treat absence as incomplete.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(final, "new")
    try:
        with named_in_errors(final, partial):
            _sweep_dead(final)
            remove(partial)
            partial.mkdir()
            yield partial
            move_folder(partial, final)
    finally:
        _tidy(partial)


def move_folder(source: Path, final: Path) -> None:
    """Flush ``source`` and rename it to ``final``, an older ``final`` being deleted."""
    fsync_tree(source)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(final, "old")
    remove(aside)
    if os.path.lexists(final):  # a link to nothing is in the way, too
        os.rename(final, aside)
    try:
        rename(source, final)
    except OSError:  # from another disk it is copied, for which this one may be too full
        if os.path.lexists(aside) and not os.path.lexists(final):
            os.rename(aside, final)
        raise
    remove(aside)


def rename(source: Path, final: Path) -> None:
    """Rename a file or folder durably; where ``final`` is on another disk, copy, then rename.

    A folder must not stand at ``final``.
    """
    try:
        os.rename(source, final)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_across(source, final)
    fsync_path(final.parent)
    if source.parent != final.parent and source.parent.exists():
        fsync_path(source.parent)


def _copy_folder(source: Path, target: Path) -> None:
    """Stop at the first error: copytree collects the same one for each file of a full disk."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_dir() and not path.is_symlink():
            _copy_folder(path, target / path.name)
        else:
            shutil.copy2(path, target / path.name)


def _copy_across(source: Path, final: Path) -> None:
    partial = _beside(final, "new")
    remove(partial)
    try:
        with named_in_errors(final, partial):
            if source.is_dir():
                _copy_folder(source, partial)
                fsync_tree(partial)
            else:
                shutil.copy2(source, partial)
                fsync_path(partial)
            os.rename(partial, final)
    finally:
        _tidy(partial)
    remove(source)

"""Checking a file against its entry before anything parses it.

A checksum inside a file says nothing of the rest: Parquet checks pages but not its footer, and
neither it nor Zarr notices a file that took another's place. An entry has the SHA-256 of every
file of its part, and hashing is cheaper than decoding.

A writer withdraws the entry of a part before it changes a file, and publishes the new one last. So
bytes of another entry are damage only while the entry stays what it was.
"""

import hashlib
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from store import entries
from store.atomic import named_in_errors
from store.entry import Entry, FileRecord
from store.errors import DataError, RetryError
from store.layout import Layout, part_name, shard_of_file

MISSING = "is missing"
_BLOCK_BYTES = 1 << 20
_TRIES = 3

_planned: ContextVar[tuple[Path, Entry] | None] = ContextVar("planned", default=None)
_is_hashed: ContextVar[bool] = ContextVar("is_hashed", default=False)


@contextmanager
def planned(layout: Layout, entry: Entry) -> Iterator[None]:
    """Compare files of a part with this entry, in this thread, whatever entry lies there now.

    A file that was opened within is the one that the entry lists, also where the part is published
    again at the same time; a reader that was made within goes on comparing with it.

    Raises:
        DataError: a file is missing or damaged.
        RetryError: the part was withdrawn, or published again with other files.
    """
    path = layout.entry(entry.artifact, entry.stem)
    token = _planned.set((path, entry))
    try:
        yield
    finally:
        _planned.reset(token)
    if not _is_hashed.get():
        now = _entry_now(path.parent, entry.stem)
        if now is None or now.files != entry.files:  # between its hash and its opening
            raise RetryError(f"{path} is being written by another process; try again")


@contextmanager
def hashed_before() -> Iterator[None]:
    """Compare no file with its entry, in this thread: the caller has hashed all that is read."""
    token = _is_hashed.set(True)
    try:
        yield
    finally:
        _is_hashed.reset(token)


def has_changed(layout: Layout, entry: Entry) -> bool:
    """Whether a part holds other rows than ``entry`` says, or is being written.

    Raises:
        DataError: the entry that lies there now is damaged.
    """
    now = _entry_now(layout.folder(entry.artifact), entry.stem)
    return now is None or now.rows_digest != entry.rows_digest


def entry_beside(path: Path) -> Entry | None:
    """The entry in a part's folder that covers the file or Zarr store at ``path``.

    None where there is none: the part is being written, or lies outside of a store; and within
    `hashed_before`. Within `planned`, the planned one.

    Raises:
        DataError: the entry is damaged.
    """
    if _is_hashed.get():
        return None
    shard = shard_of_file(path.name)  # also of a table beside the part: rejects, suspects
    of_part = [] if shard is None else [part_name(shard)]
    stems = [path.name.split(".")[0], *of_part, path.parent.name]
    planned_path, entry = _planned.get() or (None, None)
    for stem in stems:
        if path.parent / f"_{stem}.json" == planned_path:
            return entry
        if found := _entry_now(path.parent, stem):
            return found
    return None


def _entry_now(folder: Path, stem: str) -> Entry | None:
    path = folder / f"_{stem}.json"
    try:
        return entries.read_entry(path) if path.is_file() else None
    except DataError:
        if path.exists():
            raise
        return None  # withdrawn just now


def check_file(path: Path) -> Entry | None:
    """Compare a file of a store with the entry beside it; nothing where there is no entry.

    Where the part was published again meanwhile, the file is compared with the new entry. Returns
    the one that it agrees with.

    Raises:
        DataError: it is missing, damaged, or another file than its entry lists.
        RetryError: its part is being written.
    """
    entry = entry_beside(path)
    for tries_left in range(_TRIES - 1, -1, -1):
        if entry is None:
            return None
        try:
            check_named(entry, path.parent, path.name)
        except RetryError:
            entry = entry_beside(path)
            if entry is None or not tries_left:
                raise
        else:
            return entry
    raise AssertionError("the last try raises or returns")


def check_named(entry: Entry, folder: Path, name: str) -> None:
    """Compare the file ``name`` below the part's ``folder`` with its entry.

    Raises:
        DataError: it is missing, damaged, or not of this entry.
        RetryError: it is of another entry, which lies there now, or its part is being written.
    """
    record = entry.files.get(name)
    wrong = "is not listed in its entry" if record is None else problem_of(folder / name, record)
    if not wrong:
        return
    now = _entry_now(folder, entry.stem)
    if now is None or now.files.get(name) != record:
        raise RetryError(f"{folder / name} is being written by another process; try again")
    delete = "" if wrong == MISSING else "delete it and "
    raise DataError(f"{folder / name} {wrong}; {delete}run `{entry.remake}` again")


def problem_of(
    path: Path, record: FileRecord, tell: Callable[[int], object] = lambda _: None
) -> str | None:
    """What is wrong with a file, in words that follow its name; None where its bytes are right.

    ``tell`` is called with the number of bytes of each block that was read.

    Raises:
        OSError: it is there but cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait forever
            return "is not a file"
        if found.st_size != record.num_bytes:
            return f"has {found.st_size} bytes instead of {record.num_bytes}"
        if _sha256(path, tell) != record.sha256:
            return "has other bytes than recorded (SHA-256)"
    except (FileNotFoundError, NotADirectoryError):
        return "is a link to nothing" if path.is_symlink() else MISSING
    return None


def _sha256(path: Path, tell: Callable[[int], object]) -> str:
    digest, block = hashlib.sha256(), bytearray(_BLOCK_BYTES)
    view = memoryview(block)
    with named_in_errors(path), path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(view[:size])  # lets other threads run
            tell(size)
    return digest.hexdigest()

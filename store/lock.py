"""One live writer for a shard, also across the machines that share a folder.

`fcntl.lockf` decides between processes of one machine (and across NFS where it works). A lease
file with host, process and a heartbeat decides where a file system only pretends to lock.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from store.atomic import write_bytes
from store.errors import RetryError

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 300.0

_LEASE_TRIES = 20
_LEASE_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a lock, and when it last said so (seconds since 1970)."""

    host: str
    pid: int
    beat: float


_held: set[Path] = set()
"""Locks of this process: `fcntl.lockf` lets a process take its own lock twice."""


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock at ``path`` (its lease stands beside it, with suffix ``.lease``).

    Raises:
        RetryError: another live process holds it; names host and process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.absolute() in _held:
        raise _busy(path, read_lease(path.with_suffix(".lease")))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(descriptor, path)
        with _in_this_process(path), _lease(path.with_suffix(".lease")):
            yield
    finally:
        os.close(descriptor)


@contextmanager
def _in_this_process(path: Path) -> Iterator[None]:
    name = path.absolute()
    _held.add(name)
    try:
        yield
    finally:
        _held.discard(name)


def _acquire(descriptor: int, path: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise _busy(path, _lease_of_holder(path)) from None
    # Only now: a lease read before the lock was had may be that of a writer who has just ended.
    lease = read_lease(path.with_suffix(".lease"))
    if lease and lease.host != socket.gethostname() and time.time() - lease.beat < STALE_SECONDS:
        raise _busy(path, lease)


def _lease_of_holder(path: Path) -> Lease | None:
    """The lease of the process that has the lock; it writes it a moment after it got the lock."""
    for _ in range(_LEASE_TRIES):
        lease = read_lease(path.with_suffix(".lease"))
        if lease is not None:
            return lease
        time.sleep(_LEASE_WAIT_SECONDS)
    return None


def _busy(path: Path, lease: Lease | None) -> RetryError:
    holder = f"process {lease.pid} on {lease.host}" if lease else "another process"
    return RetryError(
        f"{path.stem} is being written by {holder}; wait for it to end, then run again"
    )


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at ``path``, as far as the file system can tell.

    Not to be called while another thread of this process takes that lock: to close a file gives
    back whatever locks the process has on it.
    """
    if path.absolute() in _held:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a file system without locks: leases alone decide there
        return False
    finally:
        os.close(descriptor)
    return False


def read_lease(path: Path) -> Lease | None:
    """What a lease file says of a lock's holder; None where there is none, or it is damaged."""
    try:
        raw = json.loads(path.read_bytes())
        return Lease(str(raw["host"]), int(raw["pid"]), float(raw["beat"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _lease(path: Path) -> Iterator[None]:
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a disk that is full for a moment must not end the heartbeat
                _write_lease(path)

    _write_lease(path)
    heart = threading.Thread(target=beat, name="lease", daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        path.unlink(missing_ok=True)


def _write_lease(path: Path) -> None:
    lease = {"host": socket.gethostname(), "pid": os.getpid(), "beat": time.time()}
    write_bytes(path, json.dumps(lease).encode())

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
from contextlib import contextmanager
from pathlib import Path

from store.atomic import write_bytes
from store.errors import RetryError

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 300.0


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock at ``path`` (its lease stands beside it, with suffix ``.lease``).

    Raises:
        RetryError: another live process holds it; names host and process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, path)
        with _lease(path.with_suffix(".lease")):
            yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    lease = _read_lease(path.with_suffix(".lease"))
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise _busy(path, lease) from None
    elsewhere = lease.get("host") != socket.gethostname()
    if lease and elsewhere and time.time() - float(str(lease["beat"])) < STALE_SECONDS:
        raise _busy(path, lease)


def _busy(path: Path, lease: dict[str, object]) -> RetryError:
    holder = f"process {lease['pid']} on {lease['host']}" if lease else "another process"
    return RetryError(
        f"{path.stem} is being written by {holder}; wait for it to end, then run again"
    )


def _read_lease(path: Path) -> dict[str, object]:
    try:
        lease = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return lease if {"host", "pid", "beat"} <= set(lease) else {}


@contextmanager
def _lease(path: Path) -> Iterator[None]:
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
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

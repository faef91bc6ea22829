"""One live writer for a shard, also across the machines that share a folder.

`fcntl.lockf` decides between processes of one machine (and across NFS where it works). A lease
file with host, process and a heartbeat decides where a file system only pretends to lock, or does
not lock at all. How long ago a heart has beaten is read from the clock of the file system, which
stamps the files of all hosts: their own clocks may differ by more than a lease lasts.
"""

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from store import json_text
from store.atomic import CANNOT_LINK, write_bytes, write_new
from store.errors import RetryError

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 300.0
SETTLE_SECONDS = 1.0
"""Two hosts may take over a dead one's lease at once: the last one to write it has it."""

_LEASE_TRIES = 20
_LEASE_WAIT_SECONDS = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a lock, and when it last said so (seconds since 1970, by its own clock)."""

    host: str
    pid: int
    beat: float
    token: str = ""
    """Another one for each time that a lock is taken."""


@dataclass(slots=True)
class _Held:
    """A lock that this process holds."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    is_lost: bool = False
    """Whether another host took it over: this one slept, or did not reach the file system."""


_held: dict[str, _Held] = {}
"""Locks of this process: `fcntl.lockf` lets a process take its own lock twice."""
_leases: dict[Path, _Held] = {}
_guard = threading.Lock()


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock at ``path`` (its lease stands beside it, with suffix ``.lease``).

    Raises:
        RetryError: another live process holds it; names host and process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name, held = os.path.realpath(path), _Held()
    with _guard:
        is_ours = _held.setdefault(name, held) is not held
    if is_ours:
        raise _busy(path, read_lease(path.with_suffix(".lease")))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            has_lock = _acquire(descriptor, path)
            with _leased(path, held, has_lock):
                yield
        finally:
            os.close(descriptor)
    finally:
        del _held[name]


def require(path: Path) -> None:
    """Stop if this process holds the lock at ``path`` and another host took it over.

    Raises:
        RetryError: it has; this process was asleep, or cut off from the file system, for longer
            than a lease lasts.
    """
    held = _held.get(os.path.realpath(path))
    if held is None:
        return
    lease = read_lease(path.with_suffix(".lease"))
    if held.is_lost or (lease is not None and lease.token != held.token):
        raise RetryError(
            f"{path.stem} was taken over by {_who(lease)} while this process was not heard of for "
            f"{STALE_SECONDS / 60:g} minutes; nothing is published: run again"
        )


def _acquire(descriptor: int, path: Path) -> bool:
    """Take the lock; False where the file system has none."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise _busy(path, _lease_of_holder(path)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _lease_of_holder(path: Path) -> Lease | None:
    """The lease of the process that has the lock; it writes it a moment after it got the lock."""
    for _ in range(_LEASE_TRIES):
        lease = read_lease(path.with_suffix(".lease"))
        if lease is not None:
            return lease
        time.sleep(_LEASE_WAIT_SECONDS)
    return None


def _busy(path: Path, lease: Lease | None) -> RetryError:
    return RetryError(
        f"{path.stem} is being written by {_who(lease)}; wait for it to end, then run again"
    )


def _who(lease: Lease | None) -> str:
    return f"process {lease.pid} on {lease.host}" if lease else "another process"


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at ``path``, as far as the file system can tell.

    Not to be called while another thread of this process takes that lock: to close a file gives
    back whatever locks the process has on it.
    """
    if os.path.realpath(path) in _held:
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
        raw = json_text.parse(path.read_bytes())
        token = str(raw.get("token", ""))
        return Lease(str(raw["host"]), int(raw["pid"]), float(raw["beat"]), token)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def is_fresh(path: Path) -> bool:
    """Whether the heart of a lease's holder has beaten lately."""
    try:
        with path.open("rb") as file:  # network file systems look for news when a file is opened
            beaten = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return False
    # Far in the future, too, it is nobody's who is alive: the file system's clock was put back.
    return abs(_now(path.with_suffix(".lock")) - beaten) < STALE_SECONDS


def _now(path: Path) -> float:
    """The time by the clock of the file system that a lock lies on."""
    try:
        os.utime(path)
        return path.stat().st_mtime
    except OSError:  # read-only, or without a lock
        return time.time()


def is_process(pid: int) -> bool:
    """Whether a process of this host has the number, whoever it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # of another user; no number of a process
        return True
    return True


@contextmanager
def _leased(path: Path, held: _Held, has_lock: bool) -> Iterator[None]:
    lease, stop = path.with_suffix(".lease"), threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a disk that is full for a moment must not end the heartbeat
                found = read_lease(lease)
                if found is not None and found.token != held.token:
                    held.is_lost = True
                    return
                write_bytes(lease, _lease_bytes(held))

    heart = threading.Thread(target=beat, name="lease", daemon=True)
    _leases[lease] = held
    try:
        _take(path, held, has_lock)
        heart.start()
        yield
    finally:
        stop.set()
        if heart.ident is not None:
            heart.join()
        _give_back(lease)


def give_back_leases() -> None:
    """Delete the leases that this process still has: a signal may come while they are deleted.

    Only for a process that is about to end.
    """
    for lease in list(_leases):
        with suppress(OSError):
            _give_back(lease)


def _give_back(lease: Path) -> None:
    found, held = read_lease(lease), _leases.get(lease)
    if found is not None and held is not None and found.token == held.token:
        lease.unlink(missing_ok=True)
    _leases.pop(lease, None)


def _take(path: Path, held: _Held, has_lock: bool) -> None:
    """Write the lease, unless another one is alive."""
    lease = path.with_suffix(".lease")
    for _ in range(_LEASE_TRIES):
        # Only now: a lease read before the lock was had may be that of a writer who has just ended.
        found = read_lease(lease)
        if found is not None and found.token == held.token:
            return
        if found is not None and _may_live(found, has_lock) and is_fresh(lease):
            raise _busy(path, found)
        try:
            if not lease.exists():
                if write_new(lease, _lease_bytes(held)):
                    return
                continue  # another one was faster: look at it
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
        write_bytes(lease, _lease_bytes(held))
        if not has_lock or (found is not None and found.host != socket.gethostname()):
            time.sleep(SETTLE_SECONDS)
    raise _busy(path, read_lease(lease))


def _may_live(lease: Lease, has_lock: bool) -> bool:
    """Whether a lease's holder may be alive though we have the lock, its last beat left aside."""
    if lease.host != socket.gethostname():
        return True
    return not has_lock and lease.pid != os.getpid() and is_process(lease.pid)


def _lease_bytes(held: _Held) -> bytes:
    lease = {"host": socket.gethostname(), "pid": os.getpid(), "beat": time.time()}
    return json.dumps({**lease, "token": held.token}).encode()

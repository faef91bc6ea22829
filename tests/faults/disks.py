"""Disks of a test's own, seen by no other process: small ones, full, read-only, gone.

A test's function runs in a forked child that has mounts of its own, so nothing is left mounted
whatever happens. Commands run in children of that child, as `python -m ferkd_pipeline` would.
"""

import ctypes
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ferkd_pipeline import cli
from tests.children import end_of

_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_NOT_ALLOWED = 77
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code, or minus the signal that ended it."""
    told: str
    """What it wrote to stderr."""

    @property
    def line(self) -> str:
        """The one line that a failed command tells."""
        lines = [line for line in self.told.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, self.told
        assert "Unexpected" not in self.told and "Traceback" not in self.told, self.told
        return lines[0].removeprefix("Error: ")


def command(*arguments: str, before: Callable[[], object] = lambda: None) -> Ended:
    """Run a command in a forked child, after ``before``, and wait for its end."""
    read, write = os.pipe()
    pid = _fork()
    if not pid:
        code = 99
        try:
            for number in (1, 2):
                os.dup2(write, number)
            sys.stdout, sys.stderr = open(os.devnull, "w"), os.fdopen(2, "w", closefd=False)  # noqa: SIM115
            before()
            code = cli.main(list(arguments))
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    return Ended(end_of(pid), told)


def with_own_mounts(function: Callable[[], object]) -> None:
    """Run a function in a forked child that may mount; what it raises fails this test."""
    read, write = os.pipe()
    pid = _fork()
    if not pid:
        code, told = 1, ""
        try:
            if _unshare():
                function()
                code = 0
            else:
                code = _NOT_ALLOWED
        except BaseException:
            told = traceback.format_exc()
        finally:
            os.write(write, told.encode()[-60000:])
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    code = end_of(pid)
    if code == _NOT_ALLOWED:
        pytest.skip("mounting is not allowed here, not even in a user namespace")
    assert code == 0, told


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, Python 3.12
        return os.fork()


def _unshare() -> bool:
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_NEW_MOUNTS):
        if _libc.unshare(_NEW_MOUNTS | _NEW_USERS):
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return bool(_libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None) == 0)


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    done = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind and kind.encode(),
        flags,
        options.encode() or None,
    )
    if done:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


class Disk:
    """A disk in memory, mounted at a folder."""

    def __init__(self, folder: Path, options: str = "size=256m") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        _mount("tmpfs", folder, "tmpfs", 0, options)

    def leave_free(self, num_bytes: int) -> None:
        """Make it so small that only so much is free."""
        found = os.statvfs(self.folder)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        _mount("tmpfs", self.folder, "tmpfs", _REMOUNT, f"size={max(4096, used + num_bytes)}")

    def grow(self) -> None:
        """Make it large again."""
        _mount("tmpfs", self.folder, "tmpfs", _REMOUNT, "size=256m")


def bind(source: Path, target: Path) -> None:
    """Show a folder at another place, too."""
    _mount(str(source), target, None, _BIND)


def unmount(folder: Path) -> None:
    """Take away what is mounted at a folder, though files of it are open."""
    if _libc.umount2(os.fsencode(folder), 2):
        raise OSError(ctypes.get_errno(), str(folder))


def make_read_only(folder: Path) -> None:
    """Bind a folder on itself, read-only."""
    _mount(str(folder), folder, None, _BIND)
    _mount(str(folder), folder, None, _BIND | _REMOUNT | _READ_ONLY)

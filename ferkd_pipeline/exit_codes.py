"""The one place where an exception becomes an exit code and a message for people."""

import errno
import re

import click

from ferkd_pipeline.plain import one_line
from stages.shared.stopping import Terminated
from store.errors import (
    TRANSIENT_ERRNOS,
    DataError,
    FerkdError,
    ParamsError,
    RetryError,
    ShardError,
)

FAILED = 1
USAGE = 2
AGAIN = 75
INTERRUPTED = 130
TERMINATED = 143
"""As of a program that SIGTERM ended."""
UNREAD = 141
"""As of a program that SIGPIPE ended: nobody reads on, and the command was not done."""

# The first class that fits decides: subclasses stand before their bases.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (ParamsError, USAGE),
    (DataError, 3),
    (ShardError, 42),
    (RetryError, AGAIN),
    (click.UsageError, USAGE),
    (click.Abort, INTERRUPTED),
    (Terminated, TERMINATED),
    (KeyboardInterrupt, INTERRUPTED),
    (BaseException, FAILED),
)

_DISK = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
    errno.EROFS: "the file system is read-only: make it writable or choose another folder",
    errno.EACCES: "permission denied: check who owns it and who may write there",
    errno.EPERM: "not permitted: check who owns it and who may write there",
    errno.ENAMETOOLONG: "too long a path or name: choose a shorter one",
    errno.EISDIR: "is a folder where a file should be: move it away, then run again",
    errno.ENOTDIR: "a file lies where a folder should be: move it away, then run again",
    errno.EFBIG: "larger than a file may be here: raise `ulimit -f`, or use another file system",
    errno.EMFILE: "too many open files: raise `ulimit -n`, or lower num_workers of the stage",
    errno.ENFILE: "too many open files on this machine: end other programs, or raise fs.file-max",
    errno.ENOMEM: "out of memory: lower batch_size or num_workers of the stage in params.yaml",
    errno.ESTALE: "the network file system lost the file: check the mount, then run again",
    errno.EIO: "the disk failed to read or write: check the disk or the mount, then run again",
}
_TRANSIENT = "the file system does not answer: check the disk or the mount, then run again"
_DEATH = re.compile(r"DataLoader worker \(pid.*?(?:killed by signal: ([^.]+)|exited unexpectedly)")
"""What torch raises in the main thread, wherever that is; mostly where `Loading` tells of it."""
_GONE = "check the path, or the mount if it was there before, then run again"


def exit_code(error: BaseException) -> int:
    """Return the exit code that an exception ends the command with."""
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return AGAIN
    if _death_of_worker(error):
        return AGAIN
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def message(error: BaseException) -> str:
    """Return what to tell people: one line a problem, without a traceback."""
    if isinstance(error, ParamsError):
        return "\n".join(map(one_line, str(error).split("\n")))  # a line a problem
    if isinstance(error, FerkdError):
        return one_line(str(error))
    if isinstance(error, click.ClickException):
        return one_line(" ".join(error.format_message().split()))
    if isinstance(error, KeyboardInterrupt | click.Abort):
        how = "terminated (SIGTERM)" if isinstance(error, Terminated) else "interrupted"
        return f"{how}; what was published is whole, and the same command takes the rest up again"
    if isinstance(error, OSError):
        return one_line(_os_error(error))
    if _is_want_of_memory(error):
        return "out of memory: lower batch_size or num_workers of the stage in params.yaml"
    if death := _death_of_worker(error):
        how = f"was killed ({death[1]})" if death[1] else "died"
        return (
            f"a process that loads images {how}, perhaps for want of memory or because a mapped "
            "file was cut short; lower num_workers or batch_size and run the same command again"
        )
    text = " ".join(str(error).split())
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def is_expected(error: BaseException) -> bool:
    """Return whether the message says all that there is to say: no traceback would add to it."""
    known = FerkdError | click.ClickException | KeyboardInterrupt | click.Abort
    if isinstance(error, known) or _is_want_of_memory(error) or _death_of_worker(error):
        return True
    return isinstance(error, OSError) and _is_of_disk(error)


def _death_of_worker(error: BaseException) -> re.Match[str] | None:
    return _DEATH.match(str(error)) if isinstance(error, RuntimeError) else None


def _is_want_of_memory(error: BaseException) -> bool:
    """torch is not imported to compare with its class, which is a RuntimeError of this name."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    signs = ("can't allocate memory", "can't start new thread", "Cannot allocate memory")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def _is_of_disk(error: OSError) -> bool:
    is_gone = error.errno == errno.ENOENT and error.filename is not None
    return is_gone or error.errno in _DISK or error.errno in TRANSIENT_ERRNOS


def _os_error(error: OSError) -> str:
    what = _DISK.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    # Cut: a path that is too long is one of the things that can be wrong.
    places = [str(name)[:300] for name in (error.filename, error.filename2) if name is not None]
    if error.errno in TRANSIENT_ERRNOS and error.errno not in _DISK:
        what = f"{what}: {_TRANSIENT}"
    elif error.errno == errno.ENOENT and places:
        what = f"{what}: {_GONE}"
    return f"{' -> '.join(places)}: {what}" if places else what

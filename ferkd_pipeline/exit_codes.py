"""The one place where an exception becomes an exit code and a message for people."""

import errno

import click

from store.errors import DataError, FerkdError, ParamsError, RetryError, ShardError

FAILED = 1
USAGE = 2
INTERRUPTED = 130

# The first class that fits decides: subclasses stand before their bases.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (ParamsError, USAGE),
    (DataError, 3),
    (ShardError, 42),
    (RetryError, 75),
    (click.UsageError, USAGE),
    (click.Abort, INTERRUPTED),
    (KeyboardInterrupt, INTERRUPTED),
    (BaseException, FAILED),
)

_DISK = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
    errno.EROFS: "the file system is read-only: make it writable or choose another folder",
    errno.EACCES: "permission denied: check who owns it and who may write there",
    errno.EPERM: "not permitted: check who owns it and who may write there",
    errno.ESTALE: "the network file system lost the file: check the mount, then run again",
    errno.EIO: "the disk failed to read or write: check the disk or the mount, then run again",
}


def exit_code(error: BaseException) -> int:
    """Return the exit code that an exception ends the command with."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def message(error: BaseException) -> str:
    """Return what to tell people: one line a problem, without a traceback."""
    if isinstance(error, FerkdError):
        return str(error)
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return (
            "interrupted; what was published is whole, and the same command takes the rest up again"
        )
    if isinstance(error, OSError):
        return _os_error(error)
    # torch's class is a RuntimeError of this name; torch itself is not imported to compare.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory: lower batch_size or num_workers of the stage in params.yaml"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_expected(error: BaseException) -> bool:
    """Return whether the message says all that there is to say: no traceback would add to it."""
    return isinstance(
        error, FerkdError | click.ClickException | KeyboardInterrupt | click.Abort | MemoryError
    ) or (isinstance(error, OSError) and error.errno in _DISK)


def _os_error(error: OSError) -> str:
    what = _DISK.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    places = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(places)}: {what}" if places else what

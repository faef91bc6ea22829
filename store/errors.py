"""Errors, grouped by what the caller would do about them.

The command line maps each class to one exit code (``ferkd_pipeline/exit_codes.py``); nothing else
decides on exit codes. A message says what was wrong, where (file, key, value) and what to do.
"""

import errno

TRANSIENT_ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""What network file systems answer while they recover: trying again may help."""

EXHAUSTED_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""What this process or machine has run out of: says nothing about the file that was asked for."""


def says_nothing_of_file(error: OSError) -> bool:
    """Whether an error of reading leaves open what the file holds, so it must not be judged."""
    return error.errno in TRANSIENT_ERRNOS or error.errno in EXHAUSTED_ERRNOS


class FerkdError(Exception):
    """Something failed that the user should read about; base of every error of this project."""


class ParamsError(FerkdError):
    """A parameter or an argument is wrong: change it. No work was started."""


class DataError(FerkdError):
    """Data on disk is missing, damaged, or does not fit other data: make it again."""


class ShardError(FerkdError):
    """A shard that cannot succeed however often it is tried (NaN logits, too many rejects)."""


class RetryError(FerkdError):
    """Nothing is wrong with the input: the command may succeed later (lock busy, slow disk)."""

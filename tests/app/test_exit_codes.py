import errno

import click
import pytest

from ferkd_pipeline import exit_codes
from stages.shared.stopping import Terminated
from store.errors import DataError, FerkdError, ParamsError, RetryError, ShardError


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FerkdError("x"), 1),
        (ParamsError("x"), 2),
        (DataError("x"), 3),
        (ShardError("x"), 42),
        (RetryError("x"), 75),
        (click.UsageError("x"), 2),
        (click.BadParameter("x"), 2),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (OSError(errno.EROFS, "Read-only file system"), 1),
        (MemoryError(), 1),
        (ValueError("x"), 1),
    ],
)
def test_each_class_has_its_documented_code(error: BaseException, code: int) -> None:
    assert exit_codes.exit_code(error) == code


def test_every_error_of_ours_is_in_the_table_or_is_a_failure() -> None:
    listed = {kind for kind, _ in exit_codes.EXIT_CODES}
    assert set(FerkdError.__subclasses__()) <= listed


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space", "labels/soft"), "labels/soft: the disk is full: free"),
        (OSError(errno.EROFS, "Read-only", "labels"), "labels: the file system is read-only"),
        (PermissionError(errno.EACCES, "denied", "labels"), "labels: permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a", None, "b"), "a -> b: No such file"),
        (MemoryError(), "out of memory: lower batch_size"),
        (OutOfMemoryError("CUDA out of memory. Tried"), "out of memory: lower batch_size"),
        (KeyboardInterrupt(), "interrupted; what was published is whole"),
        (Terminated(), "terminated (SIGTERM); what was published is whole"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (DataError("labels/soft: damaged"), "labels/soft: damaged"),
    ],
)
def test_messages(error: BaseException, text: str) -> None:
    assert exit_codes.message(error).startswith(text)
    assert "\n" not in exit_codes.message(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DataError("x"), True),
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.ENOENT, "x"), False),
        (KeyError("x"), False),
    ],
)
def test_what_a_traceback_would_help_with(error: BaseException, expected: bool) -> None:
    assert exit_codes.is_expected(error) is expected

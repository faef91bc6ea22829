"""Shards that failed while others went on: one error that tells of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from store.errors import DataError, FerkdError, ParamsError, RetryError, ShardError

# What somebody has to see to comes first: trying again is no use before.
_GRAVITY: tuple[type[FerkdError], ...] = (
    ParamsError,
    DataError,
    FerkdError,
    ShardError,
    RetryError,
)
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Failure:
    """One shard that failed."""

    where: str
    """What failed, to people: ``infer shard 3``."""
    kind: type[FerkdError]
    """Decides on the exit code."""
    message: str
    """What was wrong, in one line."""
    trace: str = ""
    """Where in the code, for ``--debug``; from another process."""


class _Trace(Exception):
    """Shown by ``--debug`` as the cause of an error: the traceback of another process."""

    def __init__(self, trace: str) -> None:
        super().__init__(f"in another process:\n\n{trace}")


def error_of(failures: Sequence[Failure]) -> FerkdError:
    """The error that ends a command in which shards failed; the gravest of them speaks.

    The others were told of when they failed. Its class is one of those that decide on exit codes.
    """
    first = min(failures, key=lambda failure: _GRAVITY.index(failure.kind))
    text = f"{first.where}: {first.message}"
    others = [failure.where for failure in failures if failure is not first]
    if others:
        named = ", ".join(others[:_MOST_NAMED])
        more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        text += f"; also failed, see above: {named}{more}"
    error = first.kind(text)
    if first.trace:
        error.__cause__ = _Trace(first.trace)
    return error

"""What runs on the nodes of a Ray cluster: a phase of a stage, and the board that news go to.

Ray imports this module there by its name: the node has the same version of this package installed.
"""

import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ferkd_pipeline import exit_codes, fingerprints
from ferkd_pipeline.executors.overview import News, Teller
from ferkd_pipeline.failures import Failure
from stages.shared.contract import Progress
from store.errors import DataError, FerkdError, ParamsError, RetryError, ShardError

_KINDS: dict[int, type[FerkdError]] = {
    2: ParamsError,
    3: DataError,
    42: ShardError,
    75: RetryError,
}
_LOOKS = 10
_LOOK_SECONDS = 0.5


class Board:
    """Where tasks leave their news until the command fetches them; an actor."""

    def __init__(self) -> None:
        self._news: list[News] = []

    def add(self, news: list[News]) -> None:
        """Leave news."""
        self._news += news

    def take(self) -> list[News]:
        """Fetch them; they are gone then."""
        news, self._news = self._news, []
        return news


@dataclass(frozen=True, slots=True)
class Home:
    """Where a command runs, for tasks that do its work elsewhere."""

    folder: str
    """Its current folder, which every node has at this path."""
    token: str
    """A file in it, made for this run: elsewhere a folder of that path may be another one."""
    code: str
    """Digest of the code of the stages."""


@dataclass(frozen=True, slots=True)
class Call:
    """A phase, and where it reports to."""

    phase: Callable[..., Any]
    """Takes ``progress``."""
    label: str
    task: int
    attempt: int
    home: Home


@dataclass(frozen=True, slots=True)
class Returned:
    """What a phase returned."""

    value: Any


def work(call: Call, board: Any) -> Returned | Failure:
    """Do a phase here. Its error is an answer too: only a lost process says nothing."""
    node = socket.gethostname()
    # As the command line does, before torch is loaded: its threads would spin.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    teller = Teller(lambda news: board.add.remote(news), call.task, call.attempt, node)
    try:
        teller.arrive()
        _enter(call.home, node)
        with _telling(teller) as progress:
            return Returned(call.phase(progress=progress))
    except Exception as error:
        return failure_of(error, call.label, node)


def failure_of(error: Exception, label: str, node: str) -> Failure:
    """The answer that an error is, as the command line would have ended with it."""
    kind = _KINDS.get(exit_codes.exit_code(error), FerkdError)
    message = " / ".join(exit_codes.message(error).splitlines())
    if not exit_codes.is_expected(error):
        message += " (unexpected; the same command with --debug says where)"
    return Failure(f"{label}, on {node}", kind, message, "".join(traceback.format_exception(error)))


@contextmanager
def _telling(teller: Teller) -> Iterator[Progress]:
    """Tell of what was counted also when nothing more is counted for a while."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(1.0):
            teller.close()

    thread = threading.Thread(target=repeat, name="teller", daemon=True)
    thread.start()
    try:
        yield teller
    finally:
        over.set()
        thread.join()
        teller.close()


def _enter(home: Home, node: str) -> None:
    """Make the command's folder the current one, if this is the same folder and the same code."""
    folder = Path(home.folder)
    for look in range(_LOOKS):  # a network file system may show a new file a moment later
        if (folder / home.token).exists():
            break
        if not folder.is_dir() or look == _LOOKS - 1:
            state = "another folder" if folder.is_dir() else "missing"
            raise ParamsError(
                f"{folder} is {state} on {node}: the project must lie on a file system that all "
                "nodes share, at one path"
            )
        time.sleep(_LOOK_SECONDS)
    os.chdir(folder)
    if _own_code() != home.code:
        raise ParamsError(
            f"{node} has another version of ferkd-pipeline than the node of this command: install "
            "the same one on all nodes"
        )


@cache
def _own_code() -> str:
    return fingerprints.of_code()

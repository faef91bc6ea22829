"""Commands in processes of their own that tests kill: forked, for importing torch takes seconds."""

import contextlib
import gc
import itertools
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ferkd_pipeline import cli

# What the parent had made is no garbage of a child's: else each collection would go through all of
# it, and copy the memory that it lies in.
os.register_at_fork(after_in_child=gc.freeze)

_CHANGES = ("rename", "replace", "link", "unlink", "mkdir", "rmdir")
"""Functions of `os` that make files appear and disappear."""


def start_child(*arguments: str, die_at: int | None = None) -> int:
    """Run a command, as `python -m ferkd_pipeline` does, and return the id of its process.

    With ``die_at`` it is killed before its change number so-and-so of the file system: what is
    made, renamed or deleted. With 0 it is not killed and writes to the file `steps` how many there
    were.
    """
    steps = itertools.count(1)

    def run() -> int:
        if die_at is not None:
            _die_at(die_at, steps)
        code = cli.main(list(arguments))
        if die_at == 0:
            Path("steps").write_text(str(next(steps) - 1))
        return code

    return start(run)


def start(run: Callable[[], int]) -> int:
    """Run a function in a process of its own, which ends with what it returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, Python 3.12
        pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        # A shell's background jobs start with Ctrl-C ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = run()
    except KeyboardInterrupt:
        code = 130  # before or after the command, as Python itself ends then
    finally:
        os._exit(code)


def _die_at(number: int, steps: Iterator[int]) -> None:
    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(steps) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def end_of(pid: int) -> int:
    """Wait for a child; its exit code, or minus the signal that ended it."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def workers_of(pid: int) -> list[int]:
    """Processes that a process started; Linux only."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(each) for each in listed]


def kill_after(pid: int, delay: float, sign: int = signal.SIGKILL) -> int:
    """Send a signal to a child some seconds from now; see `end_of` for what is returned."""
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)
    return end_of(pid)

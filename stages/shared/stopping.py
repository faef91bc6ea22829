"""Being told to stop: Ctrl-C, or SIGTERM, as clusters send it before they take a machine away.

Either raises in the main thread at once, so that a run is left the way an error leaves it. What is
short and better done whole, such as a step of training, is finished first.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

STEP_SECONDS = 1.0
"""What is finished first may take so long."""
LEAVING_SECONDS = 4.0
"""Then the process ends as it is: what lies on disk is whole at any moment."""


_AGAIN_SECONDS = 0.05


class Interrupted(KeyboardInterrupt):
    """SIGINT came: Ctrl-C."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


_ERRORS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: Interrupted,
    signal.SIGTERM: Terminated,
}
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@dataclass(slots=True)
class Asked:
    """Whether this process was asked to stop, and by which signal first."""

    by: type[KeyboardInterrupt] | None = None
    _over: threading.Event = field(default_factory=threading.Event)


_now: Asked | None = None
_finishing = 0


@contextlib.contextmanager
def finish_first() -> Iterator[None]:
    """Let the block end before a signal raises, if it takes no longer than `STEP_SECONDS`."""
    global _finishing
    _finishing += 1
    try:
        yield
    finally:
        _finishing -= 1
    if not _finishing and _now is not None and _now.by is not None:
        raise _now.by


@contextlib.contextmanager
def noticed(on_late: Callable[[type[KeyboardInterrupt]], int]) -> Iterator[Asked]:
    """Raise in this block what a signal asks for, and remember that it came.

    In C code of torch or pydantic it can come out as an error of theirs: reading weights then fails
    as though their file were damaged. ``on_late`` tells people that the process ends though the
    block did not, and gives the exit code.

    Signals that somebody else handles are left to them, as are ignored ones: a shell's background
    jobs start with Ctrl-C ignored.
    """
    asked = Asked()
    is_main = threading.current_thread() is threading.main_thread()
    ours = [each for each, plain in _DEFAULTS.items() if is_main and _is(each, plain)]
    if not ours:
        yield asked
        return
    with _handled(ours, asked), _watched(asked, on_late):
        yield asked


def _is(number: signal.Signals, plain: object) -> bool:
    return signal.getsignal(number) is plain


@contextlib.contextmanager
def _handled(numbers: list[signal.Signals], asked: Asked) -> Iterator[None]:
    global _now

    def note(number: int, frame: FrameType | None) -> None:
        is_first = asked.by is None
        asked.by = asked.by or _ERRORS[number]
        if not (is_first and _finishing):
            raise asked.by

    def again(args: Any) -> None:
        # Raised where nobody can catch it, such as in what fork calls: raise it elsewhere.
        if not isinstance(args.exc_value, Interrupted | Terminated):
            hook(args)
            return
        number = next(each for each, kind in _ERRORS.items() if kind is args.exc_type)
        target = threading.main_thread().ident or 0
        threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (target, number)).start()

    before, _now = _now, asked
    hook, sys.unraisablehook = sys.unraisablehook, again
    for number in numbers:
        signal.signal(number, note)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in numbers:
            signal.signal(number, _DEFAULTS[number])
        _now = before


@contextlib.contextmanager
def _watched(asked: Asked, on_late: Callable[[type[KeyboardInterrupt]], int]) -> Iterator[None]:
    """See signals from a thread: the main one runs no handler while it is in C code."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    arguments = (reader, asked, on_late)
    thread = threading.Thread(target=_watch, args=arguments, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        asked._over.set()
        signal.set_wakeup_fd(before)
        writer.shutdown(socket.SHUT_RDWR)  # workers may have the socket too: closing tells nothing
        thread.join()
        writer.close()
        reader.close()


def _watch(
    reader: socket.socket, asked: Asked, on_late: Callable[[type[KeyboardInterrupt]], int]
) -> None:
    number = _wait(reader)
    if number is None:
        return
    if not asked._over.wait(STEP_SECONDS) and _finishing:
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    if not asked._over.wait(LEAVING_SECONDS - STEP_SECONDS):
        os._exit(on_late(asked.by or _ERRORS[number]))


def _wait(reader: socket.socket) -> int | None:
    """The first of our signals; None when there is nothing to wait for any more."""
    while numbers := reader.recv(64):
        for number in numbers:
            if number in _ERRORS:
                return number
    return None


def end_workers() -> None:
    """End the processes that this one started to load images; it goes on without them."""
    found = sys.modules.get("multiprocessing")
    if found is None:
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise their deaths
    for worker in found.active_children():
        worker.kill()


def _forget_in_child() -> None:
    # A worker's signals are no matter of its parent's, whose socket it shares.
    if _now is not None and threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_child)

"""A mapped file that is cut short, or whose disk fails, while it is read: one line, and the end.

The system sends SIGBUS then. Python's own handlers run between two of its instructions, and this
one is never done; so the handler is a C function, which ctypes makes of one in Python. A process
that decodes for a training has one of torch's, and its death is told like any other.
"""

import ctypes
import os
import signal

from ferkd_pipeline import exit_codes

_LINE = (
    "Error: a file that is mapped into memory was cut short, or its disk failed (SIGBUS): check "
    "the disk of the training view (.ferkd/view, or $FERKD_CACHE), then run the same command "
    "again, which finds what is damaged\n"
)
_handlers: list[object] = []


def tell_of_lost_files() -> None:
    """From now on, end this process with a line and exit code 75 where it reads what is gone.

    Nothing is published then that was not complete, and leases are aged as after any kill.
    """
    if _handlers or not hasattr(signal, "SIGBUS"):
        return
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_end)
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal.restype = ctypes.c_void_p
    library.signal(signal.SIGBUS, ctypes.cast(handler, ctypes.c_void_p))
    _handlers.append(handler)  # else it is collected


def _end(_: int) -> None:
    os.write(2, _LINE.encode())
    os._exit(exit_codes.AGAIN)

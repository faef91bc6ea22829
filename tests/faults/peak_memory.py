"""Peak memory of a piece of work, in a forked child: what it grew by above where it began."""

import contextlib
import ctypes
import gc
import os
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

_PAGES = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def grown_by(work: Callable[[], object]) -> int:
    """Return bytes of the child, or of the largest process that it waited for, above the start.

    Raises:
        AssertionError: the work failed.
    """
    gc.collect()
    with contextlib.suppress(OSError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the child uses what we freed, unseen
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, Python 3.12
        pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            sys.stdout = sys.stderr = said
            _PAGES.write_text("5")  # the peak begins here
            begun = _status("VmRSS")
            work()
            workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            grown = max(_status("VmHWM"), workers) - begun
            os.write(writing, str(grown).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=said)
            said.flush()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as answers:
        answer = answers.read()
    _, status = os.waitpid(pid, 0)
    said.seek(0)
    with said:
        assert status == 0, f"{os.waitstatus_to_exitcode(status)}: {said.read()}"
    return int(answer)


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

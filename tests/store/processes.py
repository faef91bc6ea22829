"""Real processes for tests: started with a script, waited for at a line, killed."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def running(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process of ``script``; killed at the end if it still runs."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(process: subprocess.Popen[str]) -> str:
    """The next line that the process prints; fails with its errors where it ends without one."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(f"it ended: {process.communicate()[1]}")
    return line.strip()


def kill_at_line(script: str, *arguments: object) -> int:
    """Run until the script prints a line, then SIGKILL it; returns its process id."""
    with running(script, *arguments) as process:
        wait_for_line(process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return process.pid

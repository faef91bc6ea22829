"""A command in a process of its own whose memory is limited."""

import os
import resource
import sys
import tempfile
import warnings
from pathlib import Path

from ferkd_pipeline import cli
from tests.children import end_of

_MORE_BYTES = 1 << 30


def run_limited(*arguments: str) -> tuple[int, str]:
    """Run a command that may take one GiB more than we have; its exit code and what it said.

    What asks for more fails in it, where without a limit the machine's memory would go.
    """
    with tempfile.NamedTemporaryFile() as said:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
            pid = os.fork()
        if pid == 0:
            code = 99
            try:
                sys.stdout = sys.stderr = open(said.name, "w")  # noqa: SIM115
                size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
                    "SC_PAGESIZE"
                )
                resource.setrlimit(resource.RLIMIT_AS, (size + _MORE_BYTES, size + _MORE_BYTES))
                code = cli.main(list(arguments))
                sys.stderr.flush()
            finally:
                os._exit(code)
        return end_of(pid), Path(said.name).read_text()

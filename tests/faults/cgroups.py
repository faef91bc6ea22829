"""A group of processes that may only take so much memory: beyond it the kernel kills for real."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_TOP = Path("/sys/fs/cgroup")
_FILES = ((_TOP / "memory", "memory.limit_in_bytes"), (_TOP, "memory.max"))
"""Where groups are made and how their limit is called: the first version of them, the second."""


@contextmanager
def limited_group(num_bytes: int) -> Iterator[Path]:
    """Yield the file to which a process writes 0 to join; skips the test where none can be made."""
    for top, limit in _FILES:
        group = top / f"ferkd-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / limit).exists():
                continue
            (group / limit).write_text(str(num_bytes))
            yield group / "cgroup.procs"
            return
        finally:
            group.rmdir()
    pytest.skip("groups of limited memory cannot be made here: that takes root, and cgroups")

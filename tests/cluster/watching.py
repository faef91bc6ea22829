"""Commands in processes of their own, whose work on predictions is watched: see `watched`."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WATCHED = Path(__file__).resolve().parent / "watched"
NUM_BLOCKS = 9
"""Of the three shards of `tests.world`."""
PATIENCE = 60.0


def environment(**variables: str) -> dict[str, str]:
    """Variables of a process whose Python is watched."""
    path = os.pathsep.join([str(WATCHED), str(REPOSITORY)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


def start(*arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command of ours in the current folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "ferkd_pipeline", *arguments],
        env=environment(**(variables or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a command: its exit code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the command does not end: {out}{err}") from None
    return process.returncode, out, err


def run(*arguments: str, variables: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command of ours in the current folder."""
    return ended(start(*arguments, variables=variables))


def watch() -> None:
    """Have blocks of predictions written down, in the current folder."""
    Path("blocks").touch()


def slow_down(word: str, seconds: float) -> None:
    """Have files with a word in their path take so long to appear, in the current folder."""
    Path("slow").write_text(f"{word} {seconds}")


def blocks() -> list[tuple[int, str, str]]:
    """Blocks that were finished: process, shard key and name of the block."""
    lines = [line.split() for line in Path("blocks").read_text().splitlines()]
    return [(int(pid), key, name) for pid, key, name in lines]


def every_block_was_made_once() -> bool:
    """Whether no image was labelled twice, and every one was."""
    counts = Counter((key, name) for _, key, name in blocks())
    return len(counts) == NUM_BLOCKS and set(counts.values()) == {1}


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)

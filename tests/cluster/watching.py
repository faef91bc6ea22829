"""Commands in processes of their own, whose work on predictions is watched: see `watched`."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WATCHED = Path(__file__).resolve().parent / "watched"
NUM_BLOCKS = 9
"""Of the three shards of `tests.world`."""
PATIENCE = 120.0


def environment(**variables: str) -> dict[str, str]:
    """Variables of a process whose Python is watched."""
    path = os.pathsep.join([str(WATCHED), str(REPOSITORY)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


def start(*arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command of ours in the current folder; what it says on stderr is in `said`."""
    with Path("said").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "ferkd_pipeline", *arguments],
            env=environment(**(variables or {})),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )


def said() -> str:
    """What the command that was started last has said on stderr so far."""
    return Path("said").read_text()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a command: its exit code, stdout and stderr."""
    try:
        out, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        raise AssertionError(f"the command does not end: {out}{said()}") from None
    return process.returncode, out, said()


def run(*arguments: str, variables: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command of ours in the current folder."""
    return ended(start(*arguments, variables=variables))


def watch() -> None:
    """Have blocks of predictions written down, in the current folder."""
    Path("blocks").touch()


def hold(word: str) -> None:
    """Have processes stop after a file with this word in its path, in the current folder."""
    Path("held").write_text(word)


def go_on() -> None:
    """Have them go on."""
    Path("held").unlink()


@dataclass(frozen=True, slots=True)
class Block:
    """A block of predictions that was finished."""

    pid: int
    """Of the process that made it."""
    parent: int
    """Of the process that started that one."""
    key: str
    """Of the shard."""
    name: str


def blocks() -> list[Block]:
    """Blocks that were finished, in the order of time."""
    lines = [line.split() for line in Path("blocks").read_text().splitlines()]
    return [Block(int(pid), int(parent), key, name) for pid, parent, key, name in lines]


def every_block_was_made_once() -> bool:
    """Whether no image was labelled twice, and every one was."""
    counts = Counter((block.key, block.name) for block in blocks())
    return len(counts) == NUM_BLOCKS and set(counts.values()) == {1}


def wait_for(condition: Callable[[], object], what: str, every: float = 0.02) -> None:
    """Wait until something is so, looking every so many seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(every)

"""Killed at any moment and run again, a store is byte for byte one that was never interrupted."""

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from stages.shared.contract import NoProgress
from store.check.verify import verify
from tests.children import end_of, kill_after, start_child
from tests.world import SHARDED, Project

FOLDERS = {
    "sample": "labels/crops",
    "infer": "labels/predictions",
    "compress": "labels/soft",
    "calibrate": "labels/calibrated",
}
FULL: dict[str, Any] = {"compress": {"kind": "full"}}
CASES = [*((stage, {}) for stage in SHARDED), ("compress", FULL)]
NAMES = [*SHARDED, "compress full"]


def prepare(project: Project, changes: dict[str, Any]) -> dict[str, bytes]:
    """Complete the store for the parameters; returns its files."""
    project.write_params(**changes)
    project.run(*SHARDED, **changes)
    return project.tree()


@pytest.mark.parametrize(("stage", "changes"), CASES, ids=NAMES)
def test_killed_before_any_step(own: Project, stage: str, changes: dict[str, Any]) -> None:
    """Each step that makes files appear or disappear while a shard is made anew and published.

    Of the many that write arrays, which are alike, some.
    """
    expected = prepare(own, changes)
    command = ("stage", stage, "--shard", "1", "--force")
    assert end_of(start_child(*command, die_at=0)) == 0
    num_steps = int(Path("steps").read_text())
    last = range(max(1, num_steps - 15), num_steps + 1)
    for number in (*range(1, last.start, 30), *last):
        assert end_of(start_child(*command, die_at=number)) == -signal.SIGKILL
        own.run(stage, **changes)
        assert own.tree() == expected, f"killed before step {number} of {num_steps}"
    assert verify(Path("labels"), NoProgress()).damages == []


@pytest.mark.parametrize(("stage", "changes"), CASES, ids=NAMES)
def test_killed_again_and_again(own: Project, stage: str, changes: dict[str, Any]) -> None:
    """At random moments, each run going on from where the one before was killed."""
    expected = prepare(own, changes)
    moments = random.Random(stage)
    shutil.rmtree(FOLDERS[stage])
    begun = time.monotonic()
    assert end_of(start_child("stage", stage)) == 0
    whole = time.monotonic() - begun
    shutil.rmtree(FOLDERS[stage])
    num_killed, codes = 0, list[int]()
    while num_killed < 3 and len(codes) < 30:
        codes.append(kill_after(start_child("stage", stage), moments.uniform(0.1, 0.9) * whole))
        if codes[-1] == 0:  # too late: it was measured while the machine had more to do
            assert own.tree() == expected
            shutil.rmtree(FOLDERS[stage])
            whole *= 0.8
        else:
            assert codes[-1] == -signal.SIGKILL
            num_killed += 1
    assert num_killed == 3, codes
    assert end_of(start_child("stage", stage)) == 0
    assert own.tree() == expected


@pytest.mark.parametrize(
    ("stage", "change"), [("infer", {"batch_size": 5}), ("compress", {"kind": "full"})]
)
def test_killed_between_two_sets_of_parameters(
    own: Project, stage: str, change: dict[str, Any]
) -> None:
    """Nothing of the parameters that a killed run had is left beside those of the next."""
    expected = own.tree()
    moments = random.Random(stage)
    for _ in range(3):
        own.write_params(**{stage: change})
        kill_after(start_child("stage", stage), moments.uniform(0.05, 0.5))
        own.write_params()
        kill_after(start_child("stage", stage), moments.uniform(0.05, 0.5))
    assert end_of(start_child("stage", stage)) == 0
    assert own.tree() == expected


def test_killed_while_shards_are_set_aside(own: Project) -> None:
    """Before each step of taking back what other parameters had replaced; nothing is forwarded."""
    expected = own.tree()
    command = ("stage", "infer", "--shard", "1")
    other: dict[str, Any] = {"infer": {"precision": "bf16"}}
    own.run("infer", **other)
    assert end_of(start_child(*command, die_at=0)) == 0
    for number in range(1, int(Path("steps").read_text()) + 1):
        own.run("infer", **other)
        assert end_of(start_child(*command, die_at=number)) == -signal.SIGKILL
        own.run("infer")
        assert own.tree() == expected, f"killed before step {number}"


def test_interrupted_by_hand(own: Project) -> None:
    """Ctrl-C ends with 130, and what is published is whole."""
    expected = own.tree()
    codes = []
    for delay in (0.05, 0.15, 0.3):
        shutil.rmtree("labels/predictions", ignore_errors=True)
        codes.append(kill_after(start_child("stage", "infer"), delay, signal.SIGINT))
    assert 130 in codes
    assert set(codes) <= {0, 130}
    assert not list(Path(".ferkd/locks").glob("*.lease"))
    own.run("infer")
    assert own.tree() == expected

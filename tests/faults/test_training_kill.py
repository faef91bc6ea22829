"""Killed at any moment and run again, a training gives what one that was never killed gives."""

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import stages.train.run  # noqa: F401  before children are forked: it takes seconds
from ferkd_pipeline import cli
from stages.shared.training.checkpoint import Checkpoints
from tests.children import end_of, kill_after, start_child
from tests.faults.soak import rounds
from tests.world import NETWORK, Project, Tree, merged, write_images

TRAIN: dict[str, Any] = {
    "model": {
        **merged(NETWORK, {"model_kwargs": {"drop_rate": 0.2, "drop_path_rate": 0.2}}),
        "input_size": 16,
    },
    "calibration": "ferkd",
    "evaluation": "val",
    "optimizer": "momentum",
    "lr": 0.05,
    "ema_decay": 0.8,
    "mix": "selfmix",
    "erase_probability": 0.3,
    "crops_per_image": 2,
    "batch_size": 8,
    "steps": 12,
    "eval_every": 5,
    "checkpoint_minutes": 0,
    "device": "cpu",
}
RESULTS = ("models/student", "metrics/train")
UNFINISHED = Path(".ferkd/work/train")
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}


def params(project: Project, **changes: Any) -> dict[str, Any]:
    values = {"train": merged(TRAIN, changes)}
    project.write_params(**values)
    return values


def forget_results() -> None:
    """As though train had never run; the training view stays."""
    for folder in (*RESULTS, ".ferkd/results", ".ferkd/done", UNFINISHED):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def learning(own: Project) -> Project:
    """A project with a set to measure on."""
    write_images(Path("val"), num=1, seed=2)
    return own


def never_killed(project: Project, **changes: Any) -> Tree:
    """What a training leaves that saves no checkpoint."""
    params(project, **changes, checkpoint_minutes=None)
    assert end_of(start_child("stage", "train")) == 0
    expected = project.tree(*RESULTS)
    assert len(expected) == 4
    forget_results()
    return expected


def steps_saved() -> int:
    """Steps of the newest checkpoint; 0 where there is none."""
    folders = list(UNFINISHED.glob("*"))
    assert len(folders) <= 1
    state = Checkpoints(folders[0], folders[0].name).load() if folders else None
    return 0 if state is None else len(state["history"]["lrs"])


def stop_after(steps: int, delay: float, sign: signal.Signals) -> int:
    """Train in a child that is sent a signal after so many more steps, if it lasts so long."""
    first = newest_save() + steps
    pid = start_child("stage", "train")
    end = time.monotonic() + 120
    while newest_save() < first:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        assert time.monotonic() < end
        time.sleep(0.002)
    return kill_after(pid, delay, sign)


def newest_save() -> int:
    """Checkpoints are numbered on and on, also by the runs after the one that was killed."""
    return max((int(path.name[5:]) for path in UNFINISHED.glob("*/save-*")), default=0)


def is_kept() -> bool:
    """Whether the training is over and its results are kept: nothing is left to be saved."""
    return any(Path(".ferkd/results/train").glob("*/report.json"))


@pytest.mark.parametrize(
    ("sign", "num_workers"),
    [(signal.SIGKILL, 2), (signal.SIGTERM, 0), (signal.SIGINT, 2)][: 3 if rounds(1) > 1 else 2],
)
def test_stopped_again_and_again(learning: Project, sign: signal.Signals, num_workers: int) -> None:
    """Some steps after it went on, whether it is computing, saving or measuring then."""
    expected = never_killed(learning)
    params(learning, num_workers=num_workers)
    for number in range(rounds(1)):
        _stop_until_done(learning, expected, sign, random.Random(f"{sign} {number}"))


def _stop_until_done(
    learning: Project, expected: Tree, sign: signal.Signals, moments: random.Random
) -> None:
    forget_results()
    saved, codes = [0], list[int]()
    while 0 not in codes and saved.count(TRAIN["steps"]) < 3:
        steps = max(1, min(moments.randint(2, 4), TRAIN["steps"] - saved[-1]))
        codes.append(stop_after(steps, moments.uniform(0, 0.02), sign))
        if codes[-1]:
            saved.append(TRAIN["steps"] if is_kept() else steps_saved())
            assert saved[-1] > saved[-2] or saved[-1] == TRAIN["steps"], "it began anew"
    if 0 not in codes:  # killed three times while it publishes: that is enough
        codes.append(end_of(start_child("stage", "train")))
    assert len(codes) >= 3
    assert set(codes) == {CODES[sign], 0}
    assert learning.tree(*RESULTS) == expected
    assert not list(UNFINISHED.glob("*"))


def test_killed_before_a_change_of_files(learning: Project) -> None:
    """Of one step, with its checkpoint: until all is published."""
    expected = never_killed(learning, steps=1)
    params(learning, steps=1)
    assert end_of(start_child("stage", "train", die_at=0)) == 0
    num_changes = int(Path("steps").read_text())
    assert learning.tree(*RESULTS) == expected
    moments = random.Random("changes")
    for number in moments.sample(range(1, num_changes + 1), min(rounds(1), num_changes)):
        forget_results()
        assert end_of(start_child("stage", "train", die_at=number)) in (0, -signal.SIGKILL)
        assert end_of(start_child("stage", "train")) == 0
        assert learning.tree(*RESULTS) == expected, f"killed before change {number}"


def test_a_checkpoint_of_another_training_is_refused(
    learning: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    params(learning, lr=0.1)
    assert stop_after(2, 0, signal.SIGKILL) == -signal.SIGKILL
    other = max(UNFINISHED.glob("*/save-*")).rename("other")
    shutil.rmtree(UNFINISHED)
    params(learning)
    assert stop_after(2, 0, signal.SIGKILL) == -signal.SIGKILL
    own = max(UNFINISHED.glob("*/save-*"))
    for save in UNFINISHED.glob("*/save-*"):  # killed while it deletes the older one, there are two
        shutil.rmtree(save)
    other.rename(own)
    assert cli.main(["stage", "train"]) == 3
    said = capsys.readouterr().err
    assert f"{own}/checkpoint.json is a checkpoint of another training" in said
    assert f"delete {own.parent} to start from the beginning" in said
    assert not Path("models/student").exists()
    shutil.rmtree(own.parent)
    assert end_of(start_child("stage", "train")) == 0

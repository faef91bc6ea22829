"""What trackers write, read back by those who will read it."""

import contextlib
import csv
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from stages.shared.training import tracking
from stages.shared.training.tracking import Tracking, open_tracker
from store.errors import ParamsError

BOTH = ("dvclive", "tensorboard")


def train(tracker: Tracking, start: int, stop: int) -> None:
    """Log the loss of every step and top-1 of every third; both say their step."""
    for step in range(start + 1, stop + 1):
        tracker.log(step, {"train/loss": step / 8, "train/lr": 0.5})
        if step % 3 == 0:
            tracker.log(step, {"val/top1": step / 16})


def from_dvclive(folder: Path) -> dict[str, list[tuple[int, float]]]:
    tables = folder / "plots/metrics"
    found = {}
    for path in sorted(tables.rglob("*.tsv")):
        with path.open(newline="") as file:
            rows = [*csv.reader(file, delimiter="\t")]
        assert rows[0] == ["step", path.stem]
        name = path.relative_to(tables).with_suffix("").as_posix()
        found[name] = [(int(step), float(value)) for step, value in rows[1:]]
    return found


def from_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def curves(stop: int) -> dict[str, list[tuple[int, float]]]:
    steps = range(1, stop + 1)
    found = {
        "train/loss": [(step, step / 8) for step in steps],
        "train/lr": [(step, 0.5) for step in steps],
        "val/top1": [(step, step / 16) for step in steps if step % 3 == 0],
    }
    return {name: points for name, points in found.items() if points}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nobody has set dvclive or DVC up."""
    for name in [name for name in os.environ if name.startswith(("DVC", "STUDIO"))]:
        monkeypatch.delenv(name)


def test_nothing_to_track_writes_nothing(tmp_path: Path) -> None:
    tracker = open_tracker((), tmp_path / "live", resume_at=3)
    train(tracker, 3, 6)
    tracker.close()
    assert not (tmp_path / "live").exists()


def test_curves_are_written(tmp_path: Path) -> None:
    tracker = open_tracker(BOTH, tmp_path, resume_at=0)
    train(tracker, 0, 7)
    # before the end too: that is what they are for
    assert from_dvclive(tmp_path) == from_tensorboard(tmp_path) == curves(7)
    tracker.close()
    assert from_dvclive(tmp_path) == from_tensorboard(tmp_path) == curves(7)
    assert json.loads((tmp_path / "metrics.json").read_bytes()) == {
        "train": {"loss": 7 / 8, "lr": 0.5},
        "val": {"top1": 6 / 16},
        "step": 7,
    }


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_resumed_curve_has_each_step_once(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]], closed: bool
) -> None:
    """Each part is taken up at a checkpoint of the part before and runs beyond it."""
    folder = tmp_path_factory.mktemp("live")
    reached = 0
    for start, length in parts:
        checkpoint = min(start, reached)
        tracker = open_tracker(BOTH, folder, resume_at=checkpoint)
        train(tracker, checkpoint, checkpoint + length)
        if closed:
            tracker.close()
        reached = checkpoint + length
        assert from_dvclive(folder) == curves(reached)
        assert from_tensorboard(folder) == curves(reached)
        sizes = [path.stat().st_size for path in folder.glob("tensorboard/events*")]
        assert (len(sizes) <= 2, sum(size > 0 for size in sizes)) == (True, 1)


def test_steps_that_stand_there_are_left_out(tmp_path: Path) -> None:
    train(open_tracker(BOTH, tmp_path, resume_at=0), 0, 5)
    tracker = open_tracker(BOTH, tmp_path, resume_at=4)
    train(tracker, 2, 6)
    assert from_dvclive(tmp_path) == from_tensorboard(tmp_path) == curves(6)


def test_an_evaluation_at_the_checkpoint_may_come_after_it(tmp_path: Path) -> None:
    tracker = open_tracker(BOTH, tmp_path, resume_at=0)
    for step in (1, 2):
        tracker.log(step, {"loss": 1.0})
    # killed between the checkpoint of step 2 and its evaluation
    for _ in range(2):
        open_tracker(BOTH, tmp_path, resume_at=2).log(2, {"loss": 1.0, "top1": 0.5})
        found = {"loss": [(1, 1.0), (2, 1.0)], "top1": [(2, 0.5)]}
        assert from_dvclive(tmp_path) == from_tensorboard(tmp_path) == found


def test_a_new_run_replaces_an_older_one(tmp_path: Path) -> None:
    old = open_tracker(BOTH, tmp_path, resume_at=0)
    train(old, 0, 9)
    old.log(9, {"old": 1.0})
    train(open_tracker(BOTH, tmp_path, resume_at=0), 0, 4)
    assert from_dvclive(tmp_path) == from_tensorboard(tmp_path) == curves(4)
    assert "old" not in json.loads((tmp_path / "metrics.json").read_bytes())


def test_latest_values_after_a_resume_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    train(open_tracker(["dvclive"], tmp_path, resume_at=0), 0, 8)
    open_tracker(["dvclive"], tmp_path, resume_at=4)
    assert json.loads((tmp_path / "metrics.json").read_bytes()) == {
        "train": {"loss": 0.5, "lr": 0.5},
        "val": {"top1": 3 / 16},
        "step": 4,
    }


def test_a_tensorboard_that_watches_sees_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files of one second and process have a number at the end, and 9 would be read after 10.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(10))
    watching = EventAccumulator(str(tmp_path / "tensorboard"))
    for start, stop in ((0, 8), (4, 6), (0, 3)):
        train(open_tracker(["tensorboard"], tmp_path, resume_at=start), start, stop)
        watching.Reload()
        points = [(event.step, event.value) for event in watching.Scalars("train/loss")]
        assert points == curves(stop)["train/loss"]


@pytest.mark.parametrize("tail", [b"9", b"8", b"8\t", b"\x00\x00"])
def test_a_table_cut_short_is_mended(tmp_path: Path, tail: bytes) -> None:
    train(open_tracker(["dvclive"], tmp_path, resume_at=0), 0, 8)
    table = tmp_path / "plots/metrics/train/loss.tsv"
    table.write_bytes(table.read_bytes() + tail)
    (tmp_path / "plots/metrics/train/lr.tsv").write_bytes(b"")
    train(open_tracker(["dvclive"], tmp_path, resume_at=8), 8, 9)
    assert from_dvclive(tmp_path) == curves(9) | {"train/lr": [(9, 0.5)]}


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.stages import test_tracking as here
here.train(here.open_tracker(here.BOTH, Path(sys.argv[1]), resume_at=0), 0, 8)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_keeps_all_that_it_logged(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    done = subprocess.run(command, cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert from_dvclive(tmp_path) == from_tensorboard(tmp_path) == curves(8)


def test_numbers_that_are_not_finite_are_no_error(tmp_path: Path) -> None:
    tracker = open_tracker(BOTH, tmp_path, resume_at=0)
    tracker.log(1, {"loss": float("nan")})
    tracker.log(2, {"loss": float("inf")})
    assert from_dvclive(tmp_path)["loss"][1] == (2, float("inf"))
    assert [step for step, _ in from_tensorboard(tmp_path)["loss"]] == [1, 2]
    open_tracker(BOTH, tmp_path, resume_at=1)
    assert [step for step, _ in from_dvclive(tmp_path)["loss"]] == [1]
    json.loads((tmp_path / "metrics.json").read_bytes(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("dvclive", "dvclive", "dvc"), ("tensorboard", "torch.utils.tensorboard", "tensorboard")],
)
def test_a_library_that_lacks_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    train(open_tracker(BOTH, tmp_path, resume_at=0), 0, 3)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ParamsError, match=rf"^track names {name}, .*ferkd-pipeline\[{extra}\]'"):
        open_tracker(BOTH, tmp_path, resume_at=0)
    assert from_dvclive(tmp_path) == from_tensorboard(tmp_path) == curves(3)


def test_an_unknown_tracker_is_told(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="'wandb', allowed: dvclive, tensorboard"):
        open_tracker(["wandb"], tmp_path, resume_at=0)


def test_a_tracker_named_twice_is_one(tmp_path: Path) -> None:
    train(open_tracker(["dvclive"] * 2, tmp_path, resume_at=0), 0, 3)
    assert from_dvclive(tmp_path) == curves(3)


def test_git_and_dvc_studio_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dvclive would set DVC up in any Git repository, and send numbers where there is a token."""
    from dvclive import live
    from scmrepo.git import Git

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("something would have been sent")

    monkeypatch.setattr(live, "post_to_studio", refuse)
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "secret")
    monkeypatch.setenv("DVC_STUDIO_REPO_URL", "git@example.org:me/mine.git")
    Git.init(str(tmp_path))
    with contextlib.chdir(tmp_path):
        tracker = open_tracker(BOTH, Path("metrics/live/train"), resume_at=0)
        train(tracker, 0, 3)
        tracker.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "metrics"]
    assert (tmp_path / "metrics/live/train/tensorboard/.gitignore").read_text() == "*\n"


def test_dvc_shows_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    # DVC's handlers may hold the standard output of an earlier test.
    monkeypatch.setattr(logging.getLogger("dvc"), "disabled", True)
    monkeypatch.setattr(logging.getLogger("dvc.repo.init"), "disabled", True)
    with contextlib.chdir(tmp_path):
        repo = Repo.init(no_scm=True)
        train(open_tracker(BOTH, Path("metrics/live/train"), resume_at=0), 0, 6)
        train(open_tracker(BOTH, Path("metrics/live/train"), resume_at=3), 3, 6)
        shown = repo.metrics.show()[""]["data"]["metrics/live/train/metrics.json"]["data"]
        assert shown["train"]["loss"] == 6 / 8
        plots = repo.plots.show()["workspace"]["sources"]["data"]
        assert {Path(path).name: len(each["data"]) for path, each in plots.items()} == {
            "loss.tsv": 6,
            "lr.tsv": 6,
            "top1.tsv": 2,
        }
        repo.close()
    assert yaml.safe_load(tracking._DVC_YAML) == {
        "metrics": ["metrics.json"],
        "plots": [{"plots/metrics": {"x": "step"}}],
    }

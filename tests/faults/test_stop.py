"""Told to stop, by Ctrl-C or by SIGTERM, a command leaves at once and whole, with its exit code."""

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import pytest

import stages.train.run  # noqa: F401  before children are forked: it takes seconds
from ferkd_pipeline import funnel
from ferkd_pipeline.commands.root import root
from stages.shared import stopping
from stages.shared.training import loading
from store import lock
from store.layout import Layout
from store.view.build import plan_view
from tests.children import end_of, kill_after, start, start_child, workers_of
from tests.faults.commands import BY_NAME, STUDENT
from tests.faults.soak import rounds
from tests.world import Project, write_images

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SIGNALS = pytest.mark.parametrize("sign", list(CODES), ids=["ctrl-c", "term"])
AT_ONCE = 3.0
"""Seconds; other tests run on the same machine."""


def seconds_to_end(pid: int, delay: float, sign: signal.Signals) -> tuple[int, float]:
    time.sleep(delay)
    began = time.monotonic()
    return kill_after(pid, 0, sign), time.monotonic() - began


def wait_until(happened: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


def training(project: Project, **changes: Any) -> None:
    write_images(Path("val"), num=1, seed=2)
    project.write_params(train={**STUDENT, "steps": 400, "eval_every": None, **changes})


@SIGNALS
@pytest.mark.parametrize("name", ["infer", "calibrate", "index"])
def test_stages_leave_whole(own: Project, name: str, sign: signal.Signals) -> None:
    case, expected = BY_NAME[name], own.tree()
    moments, codes = random.Random(f"{name} {sign}"), list[int]()
    for number in range(rounds(1)):
        case.forget()
        child = start_child(*case.command)
        code, seconds = seconds_to_end(child, moments.uniform(0.03, 0.3), sign)
        assert seconds < AT_ONCE
        codes.append(code)
        assert not list(Path(".ferkd/locks").glob("*.lease")), number
    assert set(codes) <= {0, CODES[sign], -sign}  # the last: before it could notice
    own.run(name)
    assert own.tree() == expected


@SIGNALS
def test_a_training_saves_and_its_workers_go(own: Project, sign: signal.Signals) -> None:
    """No checkpoint is due yet: it saves one because it is told to stop."""
    training(own, num_workers=2, checkpoint_minutes=10.0, track=["dvclive"])
    curve = Path("metrics/live/train")
    pid = start_child("stage", "train")
    wait_until(lambda: len(workers_of(pid)) >= 2 and list(curve.rglob("*loss*")))
    workers = workers_of(pid)
    code, seconds = seconds_to_end(pid, 0.2, sign)
    assert (code, seconds < AT_ONCE) == (CODES[sign], True)
    assert list(Path(".ferkd/work/train").glob("*/save-*"))
    wait_until(lambda: not any(map(lock.is_process, workers)), AT_ONCE)


def test_workers_of_a_killed_training_go(own: Project) -> None:
    """By themselves: nobody can tell them. torch looks every five seconds."""
    training(own, num_workers=2)
    pid = start_child("stage", "train")
    wait_until(lambda: len(workers_of(pid)) >= 2)
    workers = workers_of(pid)
    assert kill_after(pid, 0.1) == -signal.SIGKILL
    wait_until(lambda: not any(map(lock.is_process, workers)))


@SIGNALS
def test_who_waits_for_a_lock_leaves(own: Project, sign: signal.Signals) -> None:
    """Of a view that another process builds."""
    training(own)
    view = plan_view(Layout.beside(Path("labels")), 3, Path("images")).open().folder
    meta = (view / "meta.json").read_bytes()
    (view / "meta.json").unlink()
    with lock.hold(view.with_name(f"{view.name}.lock")):
        code, seconds = seconds_to_end(start_child("stage", "train"), 1.0, sign)
    assert (code, seconds < AT_ONCE) == (CODES[sign], True)
    (view / "meta.json").write_bytes(meta)


def in_c_code() -> None:
    """Stands for a library that does not come back: the main thread runs no handler there."""
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):  # locked already, it waits for itself
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def in_a_step() -> None:
    with stopping.finish_first():
        time.sleep(60)


def in_a_short_step() -> None:
    with stopping.finish_first():
        for _ in range(4):
            time.sleep(0.05)
        Path("finished").touch()
    Path("went on").touch()


def ends_by_itself() -> None:
    for _ in range(4):
        time.sleep(0.05)


@SIGNALS
@pytest.mark.parametrize("what", [in_c_code, in_a_step, in_a_short_step])
def test_nothing_keeps_it(
    what: Any,
    sign: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stopping, "STEP_SECONDS", 0.3)
    monkeypatch.setattr(stopping, "LEAVING_SECONDS", 0.6)
    monkeypatch.setitem(root.commands, "work", click.Command("work", callback=what))

    def run() -> int:
        sys.stderr = open("told", "w", buffering=1)  # noqa: SIM115
        return funnel.run(["work"])

    code, seconds = seconds_to_end(start(run), 0.15, sign)
    assert (code, seconds < 2) == (CODES[sign], True)
    told = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated (SIGTERM)"}[sign]
    assert f"Error: {told}; what was published is whole" in Path("told").read_text()
    assert Path("finished").exists() == (what is in_a_short_step)
    assert not Path("went on").exists()


def test_signals_of_others_stay_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(root.commands, "work", click.Command("work", callback=ends_by_itself))

    def run(handler: Any) -> int:
        signal.signal(signal.SIGTERM, handler)
        return funnel.run(["work"])

    caught = list[int]()
    pid = start(lambda: run(signal.SIG_IGN))
    assert kill_after(pid, 0.1, signal.SIGTERM) == 0
    pid = start(lambda: run(lambda number, _: caught.append(number)) + len(caught))
    assert kill_after(pid, 0.1, signal.SIGTERM) == 1
    before = (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1))
    assert funnel.run(["work"]) == 0
    assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == before
    assert not [each for each in threading.enumerate() if each.name == "signals"]


@pytest.mark.skipif(rounds(1) == 1, reason="starts Python anew: make soak")
@SIGNALS
def test_a_real_process(own: Project, sign: signal.Signals) -> None:
    """As a shell sees it, from its first moment on."""
    training(own, num_workers=2, steps=1500)
    moments, codes = random.Random(sign), list[int]()
    for number in range(rounds(1)):
        for folder in (".ferkd/work", ".ferkd/results", ".ferkd/done"):  # else it is soon done
            shutil.rmtree(folder, ignore_errors=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "ferkd_pipeline", "stage", "train"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(funnel.__file__[:-26])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background jobs start with Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        time.sleep(moments.uniform(0.3, 6))
        workers = workers_of(process.pid)
        began = time.monotonic()
        process.send_signal(sign)
        _, told = process.communicate(timeout=60)
        assert time.monotonic() - began < 6, told
        assert process.returncode in (0, CODES[sign], -sign), (number, told)
        codes.append(process.returncode)
        assert "Traceback" not in told, told
        wait_until(lambda found=workers: not any(map(lock.is_process, found)))
    assert codes.count(0) < len(codes) / 2, "it was done before the signal came"
    assert end_of(start_child("store", "verify")) == 0


def test_a_thread_of_a_worker_prints_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """It hands batches over to a process that was just told to stop; other errors are shown."""
    for error in (BrokenPipeError(), ConnectionResetError()):
        loading._tell_unless_unread(type(error), error, None)
    assert capsys.readouterr().err == ""
    loading._tell_unless_unread(ValueError, ValueError("wrong"), None)
    assert "ValueError: wrong" in capsys.readouterr().err

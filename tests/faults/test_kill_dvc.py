"""`dvc repro` killed at any moment and run again; the stage that DVC started may live on."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ferkd_pipeline import cli
from tests.children import workers_of
from tests.faults.commands import STUDENT
from tests.faults.soak import rounds
from tests.world import Project, write_images

ROOT = Path(__file__).parents[2]
MADE = ("labels", "models", "metrics")


def start_repro() -> "subprocess.Popen[bytes]":
    """What it says, and what the stages say that outlive it, goes to the file `told`."""
    found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
    with Path("told").open("wb") as out:
        command = [sys.executable, "-m", "dvc", "repro"]
        return subprocess.Popen(command, env={**os.environ, **found}, stdout=out, stderr=out)


def repro() -> tuple[int, str]:
    code = start_repro().wait()
    return code, Path("told").read_text()


def below(pid: int) -> list[int]:
    """A process and all that it started."""
    return [pid, *(each for child in workers_of(pid) for each in below(child))]


@pytest.mark.skipif(rounds(1) == 1, reason="DVC takes seconds a stage: make soak")
@pytest.mark.parametrize("dies", ["dvc", "all"])
def test_repro_is_killed_and_run_again(own: Project, dies: str) -> None:
    write_images(Path("val"), num=1, seed=2)
    own.write_params(
        train={**STUDENT, "calibration": "ferkd"},
        evaluate={"sets": {"val": "val"}, "device": "cpu"},
    )
    assert cli.main(["init", ".", "--update"]) == 0
    moments = random.Random(dies)
    begun = time.monotonic()
    code, told = repro()
    assert code == 0, told
    whole = time.monotonic() - begun
    expected, recorded = own.tree(*MADE), Path("dvc.lock").read_bytes()
    num_killed = num_refused = 0
    for number in range(max(1, rounds(1) // 7)):
        for folder in (*MADE[:1], "models/student", "metrics", ".ferkd", ".dvc/cache"):
            subprocess.run(["rm", "-rf", folder], check=True)
        Path("dvc.lock").unlink()
        for _ in range(3):
            process = start_repro()
            time.sleep(moments.uniform(0.05, 0.5) * whole)
            victims = below(process.pid) if dies == "all" else [process.pid]
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            num_killed += process.wait() == -signal.SIGKILL
        for _ in range(20):  # refused while the orphan of a killed DVC is at work
            code, told = repro()
            assert "Traceback" not in told, told
            if code == 0:
                break
            assert "is being written by process" in told or "is blocked by" in told, told
            num_refused += 1
            time.sleep(2)
        assert code == 0, told
        assert own.tree(*MADE) == expected, number
        assert Path("dvc.lock").read_bytes() == recorded
    print(f"killed {num_killed} times, refused {num_refused} times")

"""`stage train` under torchrun: real processes that train one student."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from store.errors import ParamsError
from tests.world import NETWORK, Project, write_images

TRAIN: dict[str, Any] = {
    "model": {**NETWORK, "input_size": [32, 32]},
    "evaluation": "val",
    "batch_size": 8,
    "crops_per_image": 2,
    "steps": 4,
    "lr": 0.01,
    "device": "cpu",
    "mix": "mixup",
    "eval_every": 2,
}
ROOT = Path(__file__).parents[2]


def together(*arguments: str, count: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "ferkd_pipeline", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_two_processes_make_one_student(own: Project) -> None:
    write_images(Path("val"), num=1)
    own.write_params(train=TRAIN)
    done = together("stage", "train")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("train: done") == 1
    summary = json.loads(Path("metrics/train/summary.json").read_bytes())
    assert summary["steps"] == 4
    assert Path("models/student/model.safetensors").is_file()
    assert own.why("train", train=TRAIN) == ["complete"]
    before = own.tree("models/student")
    # Complete already: nobody waits for anybody, and nothing changes.
    again = together("stage", "train")
    assert again.returncode == 0, again.stderr[-3000:]
    assert own.tree("models/student") == before


def test_what_one_process_does_is_not_done_by_two(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ParamsError, match="stage index was started as 2 processes; start it as"):
        own.run("index")

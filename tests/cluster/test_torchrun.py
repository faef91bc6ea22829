"""Several processes that torchrun starts on one host: each takes its share of the shards."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from stages.shared import devices
from store.errors import ParamsError
from tests.cluster import watching
from tests.world import Project, forget_predictions


def test_each_process_takes_its_share(own: Project) -> None:
    before = own.tree()
    forget_predictions()
    watching.watch()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "ferkd_pipeline", "stage", "infer"),
        ],
        env=watching.environment(),
        capture_output=True,
        text=True,
        timeout=watching.PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert own.tree() == before  # the manifest too: the last one writes it
    assert watching.every_block_was_made_once()
    assert len({block.pid for block in watching.blocks()}) == 2
    takes = "takes its share, as --shard auto does: shards"
    assert f"infer: process 0 (from 0 on) of 2 {takes} 0, 2\n" in done.stderr
    assert f"infer: process 1 (from 0 on) of 2 {takes} 1\n" in done.stderr
    assert "infer: all are complete; for DVC: ferkd-pipeline record infer\n" in done.stdout


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Pretend to have GPUs, and an environment; returns those made the current one."""

    def pretend(num_gpus: int, **environment: str) -> list[int]:
        current: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return current

    return pretend


RANK_2 = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}
TASK_2 = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2"}


@pytest.mark.parametrize("environment", [RANK_2, TASK_2])
def test_each_process_takes_a_gpu_of_its_own(
    with_gpus: Callable[..., list[int]], environment: dict[str, str]
) -> None:
    current = with_gpus(4, **environment)
    assert devices.choose("auto", "infer.device") == torch.device("cuda", 2)
    assert current == [2]
    assert devices.choose("cpu", "infer.device") == torch.device("cpu")
    assert with_gpus(1, **environment) == []  # a cluster shows each task its own
    assert devices.choose("cuda", "infer.device") == torch.device("cuda")
    with_gpus(2, **environment)
    with pytest.raises(ParamsError, match=r"infer.device is auto, but this is process 2 .* with 2"):
        devices.choose("auto", "infer.device")
    with_gpus(0, **environment)
    assert devices.choose("auto", "infer.device") == torch.device("cpu")


def test_alone_it_takes_the_first(with_gpus: Callable[..., list[int]]) -> None:
    current = with_gpus(4, RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    assert devices.choose("auto", "infer.device") == torch.device("cuda")
    assert current == []

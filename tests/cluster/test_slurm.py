"""The script of docs/clusters.md in a real Slurm."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ferkd_pipeline import recording
from tests.cluster import examples, slurm, watching
from tests.cluster.slurm import Slurm
from tests.world import Project, forget_predictions


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Slurm]:
    folder = tmp_path / "slurm"
    folder.mkdir()
    try:
        with slurm.running(folder) as started:
            yield started
    except slurm.Unavailable as why:
        pytest.skip(f"no Slurm: {why}")


def fitted(script: str) -> str:
    """The page's script for a node without GPUs, an array of two tasks."""
    changes = {
        "--array=0-63": "--array=0-1",
        "#SBATCH --gpus=1\n": "",
        "--cpus-per-task=8": "--cpus-per-task=1",
    }
    for old, new in changes.items():
        assert script.count(old) == 1
        script = script.replace(old, new)
    return script


def test_an_array_whose_task_is_stopped_and_queued_again(own: Project, cluster: Slurm) -> None:
    before, key = own.tree(), own.entry("predictions", 1).key
    forget_predictions()
    watching.watch()
    watching.hold("journal")
    Path("infer.sh").write_text(fitted(examples.written("bash")))
    paths = {"PATH": f"{Path(sys.executable).parent}:{cluster.variables['PATH']}"}
    variables = watching.environment(**{**cluster.variables, **paths, "FERKD_PAUSE": "0"})
    job = Slurm(cluster.programs, variables).run("sbatch", "--parsable", "infer.sh").strip()
    task = f"{job}_1"
    watching.wait_for(lambda: key in {block.key for block in watching.blocks()}, "a block")
    cluster.run("scancel", "--batch", "--signal=USR1", task)
    watching.wait_for(lambda: cluster.state(task) == "PENDING", "task 1 in the queue again", 0.2)
    watching.go_on()
    for each in (f"{job}_0", task):
        watching.wait_for(partial(has_ended, cluster, each), f"the end of task {each}", 0.5)
    told = Path("infer-1.log").read_text()
    assert "terminated (SIGTERM)" in told
    assert "done already" in told
    assert len({block.pid for block in watching.blocks() if block.key == key}) == 2
    assert own.tree() == before  # the manifest too: the last task writes it
    assert recording.record_stage(own.params(), "infer").num_shards == 3
    assert own.tree() == before
    assert watching.every_block_was_made_once()


def has_ended(cluster: Slurm, task: str) -> bool:
    """Whether a task is done; one that is queued again would wait two minutes: it does not."""
    state = cluster.state(task)
    if state == "PENDING":  # it may begin in this moment
        cluster.run("scontrol", "update", f"jobid={task}", "StartTime=now", may_fail=True)
    return state == "COMPLETED"

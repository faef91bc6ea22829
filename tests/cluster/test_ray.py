"""A stage on a real Ray cluster of two nodes: what is lost is made again, and no byte differs."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from store import entries, lock
from store.errors import RetryError
from store.layout import part_name
from tests.children import end_of, start_child
from tests.cluster import watching
from tests.world import Project, forget_predictions

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: the extra `ray`")


@dataclass(frozen=True, slots=True)
class Nodes:
    """Two nodes, each with room for one task."""

    process: subprocess.Popen[str]
    address: str
    raylets: tuple[int, int]
    """Their processes, which start those of tasks."""

    def remove_second(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("remove\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "removed\n"

    def stage(self, *arguments: str) -> subprocess.Popen[str]:
        ray = ("--executor", "ray", "--ray-address", self.address)
        return watching.start("stage", *arguments, *ray)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("raylets.py"))],
        env=watching.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None and process.stdin is not None
        try:
            address, first, second = process.stdout.readline().split()
            yield Nodes(process, address, (int(first), int(second)))
        finally:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def is_free(path: Path) -> bool:
    with contextlib.suppress(RetryError), lock.hold(path):
        return True
    return False


def test_an_error_of_one_shard_leaves_the_others_whole(own: Project, nodes: Nodes) -> None:
    before = own.tree()
    shutil.rmtree("labels/soft")
    damaged = own.layout.arrays("predictions", part_name(1)) / "logsumexp" / "c" / "1" / "0" / "0"
    whole = damaged.read_bytes()
    damaged.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    code, out, err = watching.ended(nodes.stage("compress"))
    assert (code, out) == (3, ""), err
    told = err.splitlines()
    assert told[-1].startswith("Error: compress shard 1, on ")
    assert "part-00001.zarr" in told[-1]
    assert not own.layout.manifest("soft").exists()
    for shard in (0, 2):
        assert own.entry("soft", shard)
    assert entries.find_entry(own.layout, "soft", part_name(1)) is None
    damaged.write_bytes(whole)
    own.run("compress", shards=(1,))
    assert own.tree() == before
    assert not list(Path(".ferkd/locks").glob("ray-*"))


def test_stopped_it_leaves_nothing_behind(own: Project, nodes: Nodes) -> None:
    before = own.tree()
    shutil.rmtree("labels/crops")
    watching.hold("crops/part-")
    process = nodes.stage("sample")
    locks = [own.layout.lock("crops", part_name(shard)) for shard in range(3)]
    leases = [path.with_suffix(".lease") for path in locks]
    watching.wait_for(lambda: any(lease.exists() for lease in leases), "a task that runs")
    assert end_of(start_child("stage", "sample")) == 75
    assert end_of(start_child("stage", "sample", "--executor", "ray")) == 75
    process.send_signal(signal.SIGTERM)
    code, out, err = watching.ended(process)
    assert (code, out) == (143, ""), err
    assert err.endswith(
        "Error: terminated (SIGTERM); what was published is whole, and the same command takes the "
        "rest up again\n"
    )
    watching.wait_for(lambda: not any(lease.exists() for lease in leases), "the leases' end")
    assert all(map(is_free, locks))
    watching.go_on()
    own.run("sample")
    assert own.tree() == before


def test_what_is_lost_is_made_again_elsewhere(own: Project, nodes: Nodes) -> None:
    """The last test of these two nodes: it takes one away."""
    before = own.tree()
    forget_predictions()
    watching.watch()
    watching.hold("journal")
    process = nodes.stage("infer")
    watching.wait_for(lambda: len(watching.blocks()) == 2, "a block of each node")
    by_node = {block.parent: block.pid for block in watching.blocks()}
    first, second = nodes.raylets
    assert set(by_node) == {first, second}
    os.kill(by_node[first], signal.SIGKILL)
    crashed = "its worker was lost (WorkerCrashedError: its process ended); it is tried again"
    watching.wait_for(lambda: crashed in watching.said(), "the loss of a worker")
    nodes.remove_second()
    gone = "its worker was lost (its node is gone); it is tried again"
    watching.wait_for(lambda: gone in watching.said(), "the loss of a node")
    watching.go_on()
    code, out, err = watching.ended(process)
    assert code == 0, err
    assert own.tree() == before
    assert watching.every_block_was_made_once()
    assert len({block.pid for block in watching.blocks()}) == 3
    assert "infer on 2 Ray nodes: 3 shards: 100 crops in " in err
    assert "raylet" not in out + err
    assert out.splitlines()[-1] == "infer: 3 shards done"


def test_a_cluster_of_its_own_says_what_a_local_run_says(own: Project) -> None:
    before = own.tree()
    shutil.rmtree("labels/calibrated")
    code, out, err = watching.run(
        "stage", "calibrate", "--json", "--executor", "ray", variables={"RAY_ADDRESS": "local"}
    )
    assert code == 0, err
    assert own.tree() == before
    shutil.rmtree("labels/calibrated")
    [outcome] = own.run("calibrate")
    assert outcome.lines
    expected = {"stage": "calibrate", **asdict(outcome)}
    assert json.loads(out) == json.loads(json.dumps(expected))

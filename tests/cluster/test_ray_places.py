"""What a task asks of a node, and which folder and code it accepts: without Ray."""

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ferkd_pipeline import cli, fingerprints
from ferkd_pipeline.executors import ray_cluster, ray_tasks
from ferkd_pipeline.executors.overview import News
from ferkd_pipeline.executors.ray_tasks import Call, Home, Returned
from ferkd_pipeline.failures import Failure
from stages.shared.contract import Progress
from store.errors import DataError, FerkdError, ParamsError, RetryError, ShardError
from tests.world import Project

CPU_NODE = {"Alive": True, "Resources": {"CPU": 16.0}}
GPU_NODE = {"Alive": True, "Resources": {"CPU": 32.0, "GPU": 8.0}}
DEAD = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}


@pytest.mark.parametrize(
    ("stage", "device", "nodes", "cpus", "expected"),
    [
        ("infer", "auto", [CPU_NODE], None, (2, 0)),  # infer.num_workers is 2
        ("infer", "auto", [CPU_NODE, GPU_NODE], None, (2, 1)),
        ("infer", "cuda", [CPU_NODE, GPU_NODE], 8, (8, 1)),
        ("infer", "cpu", [GPU_NODE], None, (2, 0)),
        ("infer", "auto", [CPU_NODE, DEAD], None, (2, 0)),
        ("infer", "auto", [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 8.0}}], None, (1, 1)),
        ("infer", "auto", [{"Alive": True, "Resources": {"CPU": 1.0}}], None, (1, 0)),
        ("compress", "cuda", [CPU_NODE, GPU_NODE], None, (1, 0)),
    ],
)
def test_what_a_task_asks_for(
    own: Project,
    stage: str,
    device: str,
    nodes: list[dict[str, Any]],
    cpus: int | None,
    expected: tuple[int, int],
) -> None:
    params = own.params(infer={"device": device})
    found = ray_cluster.task_options(params, stage, nodes, cpus)
    assert found == {"num_cpus": expected[0], "num_gpus": expected[1]}


def test_what_no_node_has(own: Project) -> None:
    params = own.params(infer={"device": "cuda"})
    with pytest.raises(ParamsError, match=r"infer\.device is cuda, but no node of the Ray"):
        ray_cluster.task_options(params, "infer", [CPU_NODE, DEAD], None)
    with pytest.raises(ParamsError, match=r"wants 40 CPUs, but the largest node with a GPU .* 32"):
        ray_cluster.task_options(params, "infer", [CPU_NODE, GPU_NODE], 40)


class Nowhere:
    """A board that nobody reads."""

    def __init__(self) -> None:
        self.news: list[News] = []
        self.add = self

    def remote(self, news: list[News]) -> None:
        self.news += news


def phase(error: Exception | None, progress: Progress) -> str:
    progress.start("infer part-00000", 4, "crops")
    progress.advance(4)
    if error is not None:
        raise error
    return os.getcwd()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "mark").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_tasks, "_LOOK_SECONDS", 0.0)
    return Home(str(folder), "mark", fingerprints.of_code())


def worked(home: Home, error: Exception | None = None) -> Returned | Failure:
    call = Call(partial(phase, error), "infer shard 0", 0, 0, home)
    return ray_tasks.work(call, Nowhere())


def test_a_task_works_in_the_folder_of_the_command(home: Home) -> None:
    assert worked(home) == Returned(home.folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"folder": "/nowhere/at/all"}, "/nowhere/at/all is missing on "),
        ({"token": "other"}, "project is another folder on "),
        ({"code": "0" * 64}, " has another version of ferkd-pipeline than "),
    ],
)
def test_it_refuses_another_folder_or_code(
    home: Home, changes: dict[str, str], complaint: str
) -> None:
    answer = worked(replace(home, **changes))
    assert isinstance(answer, Failure)
    assert answer.kind is ParamsError
    assert complaint in answer.message


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ParamsError("a\nb"), ParamsError, "a / b"),
        (DataError("damaged"), DataError, "damaged"),
        (ShardError("NaN"), ShardError, "NaN"),
        (RetryError("busy"), RetryError, "busy"),
        (OSError(5, "I/O error", "x"), RetryError, "x: the disk failed to read or write"),
        (OSError(28, "full", "x"), FerkdError, "x: the disk is full"),
        (KeyError("x"), FerkdError, "KeyError: 'x' (unexpected; the same command with --debug"),
    ],
)
def test_an_error_is_an_answer(
    home: Home, error: Exception, kind: type[FerkdError], message: str
) -> None:
    answer = worked(home, error)
    assert isinstance(answer, Failure)
    assert answer.kind is kind
    assert answer.message.startswith(message)
    assert "Traceback" in answer.trace


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("train", "--executor", "ray"), "stage train has no shards"),
        (("infer", "--ray-address", "a:1"), "--ray-address needs --executor ray"),
        (("infer", "--ray-cpus", "2"), "--ray-cpus needs --executor ray"),
        (("infer", "--executor", "ray", "--shard", "auto"), "deals out the shards itself"),
        (("infer", "--executor", "ray", "--ray-address", "head"), "head is no address of a Ray"),
    ],
)
def test_what_does_not_go_together(
    own: Project,
    arguments: tuple[str, ...],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_cluster, "load", lambda: None)
    assert cli.main(["stage", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_where_no_cluster_answers(
    own: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "load", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert cli.main(["stage", "infer", "--executor", "ray"]) == 75
    assert capsys.readouterr().err == (
        "Error: no Ray cluster answers at 127.0.0.1:1; is it up, and the address right?\n"
    )
    assert not list(Path(".ferkd/locks").glob("ray-*"))
    assert not own.layout.stage_lock("infer").with_suffix(".lease").exists()


def test_without_ray(
    own: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["stage", "infer", "--executor", "ray"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: --executor ray: Ray is not installed (")
    assert err.endswith("): pip install 'ferkd-pipeline[ray]'\n")
    assert err.count("\n") == 1

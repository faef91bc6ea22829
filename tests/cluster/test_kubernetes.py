"""The Job of docs/clusters.md: its fields, and that what it says of exit codes is so."""

from typing import Any

import pytest
import yaml

from ferkd_pipeline import shards
from ferkd_pipeline.commands.stage import stage
from ferkd_pipeline.executors import schedule
from ferkd_pipeline.exit_codes import exit_code
from ferkd_pipeline.stage_table import find
from store.errors import DataError, ParamsError, RetryError, ShardError
from store.lock import HEARTBEAT_SECONDS, STALE_SECONDS
from tests.cluster import examples


@pytest.fixture
def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(examples.written("yaml"))
    return found


def test_the_job_is_indexed_and_its_pods_know_how_many(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"  # sets JOB_COMPLETION_INDEX
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # rules for exit codes need it
    [container] = pod["containers"]
    dealt = [
        shards.choose(find("infer"), ("auto",), 100, environment(container, index))
        for index in range(spec["completions"])
    ]
    assert sorted(shard for each in dealt for shard in each or ()) == list(range(100))
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert container["workingDir"] in {mount["mountPath"] for mount in container["volumeMounts"]}


def environment(container: dict[str, Any], index: int) -> dict[str, str]:
    given = {each["name"]: each["value"] for each in container["env"]}
    return {**given, "JOB_COMPLETION_INDEX": str(index)}


def test_its_command_is_one_of_ours(job: dict[str, Any]) -> None:
    [container] = job["spec"]["template"]["spec"]["containers"]
    program, group, *arguments = container["command"]
    assert (program, group) == ("ferkd-pipeline", "stage")
    with stage.make_context("stage", arguments) as context:
        assert (context.params["name"], context.params["wanted"]) == ("infer", ("auto",))


def test_exit_codes_are_answered_as_they_mean(job: dict[str, Any]) -> None:
    spec = job["spec"]
    [container] = spec["template"]["spec"]["containers"]
    actions: dict[int, str] = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            codes = rule["onExitCodes"]
            assert (codes["containerName"], codes["operator"]) == (container["name"], "In")
            assert codes["values"] == sorted(set(codes["values"]))
            actions.update(dict.fromkeys(codes["values"], rule["action"]))
        else:
            assert rule["action"] == "Ignore"
            assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert actions.pop(exit_code(ShardError())) == "FailIndex"
    assert actions.pop(exit_code(ParamsError())) == "FailJob"
    assert actions.pop(exit_code(DataError())) == "FailJob"
    assert exit_code(RetryError()) not in actions
    assert not actions
    assert spec["maxFailedIndexes"] == spec["completions"]
    waited = sum(10 * 2**tried for tried in range(spec["backoffLimitPerIndex"]))
    assert waited > STALE_SECONDS + HEARTBEAT_SECONDS


def test_what_the_page_says_of_ray() -> None:
    text = " ".join(examples.PAGE.read_text().split())
    first, last = schedule.RETRY_SECONDS[0], schedule.RETRY_SECONDS[-1]
    count = {7: "seven", 5: "five"}
    assert (
        f"again after {first:g} s to {last / 60:g} min, {count[len(schedule.RETRY_SECONDS)]} times"
        in text
    )
    assert f"elsewhere, {count[schedule.MAX_LOST]} times a shard" in text

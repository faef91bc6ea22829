from collections.abc import Callable

import pytest

from ferkd_pipeline import shards
from ferkd_pipeline.stage_table import find
from store.errors import ParamsError

INFER = find("infer")


def test_no_option_is_the_whole_stage() -> None:
    assert shards.choose(INFER, (), 4) is None


def test_numbers_are_sorted_and_once() -> None:
    assert shards.choose(INFER, ("3", "0", "3"), 4) == (0, 3)


@pytest.mark.parametrize("text", ["4", "-1", "x", "1.0", "", "٣"])
def test_out_of_range_or_no_number(text: str) -> None:
    with pytest.raises(ParamsError, match=r"--shard .*: must be 0 to 3 \(store.num_shards is 4\)"):
        shards.choose(INFER, (text,), 4)


def test_a_stage_without_shards() -> None:
    with pytest.raises(ParamsError, match="stage train has no shards"):
        shards.choose(find("train"), ("0",), 4)


def test_auto_stands_alone() -> None:
    with pytest.raises(ParamsError, match="cannot be joined"):
        shards.choose(INFER, ("auto", "1"), 4, {"RANK": "0", "WORLD_SIZE": "1"})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "1", "WORLD_SIZE": "3"}, (1, 4)),
        ({"JOB_COMPLETION_INDEX": "2", "FERKD_NUM_TASKS": "3"}, (2, 5)),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "2"}, (0, 2, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_ARRAY_TASK_MIN": "1",
            },
            (0, 2, 4),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "8",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "4",
                "SLURM_ARRAY_TASK_STEP": "4",
            },
            (1, 4),
        ),
        ({"RANK": "9", "WORLD_SIZE": "12"}, ()),
        ({"SLURM_ARRAY_TASK_ID": "3", "FERKD_NUM_TASKS": "4", "SLURM_ARRAY_TASK_COUNT": "1"}, (3,)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, (1, 5)),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, (1, 5)),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_auto(environment: dict[str, str], expected: tuple[int, ...]) -> None:
    assert shards.choose(INFER, ("auto",), 6, environment) == expected


def array(task: int, num_tasks: int) -> dict[str, str]:
    return {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": str(num_tasks)}


def step(task: int, num_tasks: int) -> dict[str, str]:
    """As srun sets them; a script of a job has others."""
    count = str(num_tasks)
    step = {"SLURM_STEP_NUM_TASKS": count, "SLURM_NTASKS": count, "SLURM_JOB_ID": "7"}
    return {"SLURM_PROCID": str(task), **step}


def pod(task: int, num_tasks: int) -> dict[str, str]:
    return {"JOB_COMPLETION_INDEX": str(task), "FERKD_NUM_TASKS": str(num_tasks)}


def torchrun(rank: int, world: int, groups: int = 1) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(world), "GROUP_WORLD_SIZE": str(groups)}


@pytest.mark.parametrize("inner", [step, torchrun])
@pytest.mark.parametrize("outer", [array, pod, step])
def test_levels_are_counted_through(
    outer: Callable[[int, int], dict[str, str]], inner: Callable[[int, int], dict[str, str]]
) -> None:
    if outer is inner:
        return
    dealt = [
        shard
        for i in range(3)
        for j in range(4)
        for shard in shards.choose(INFER, ("auto",), 29, {**outer(i, 3), **inner(j, 4)}) or ()
    ]
    assert sorted(dealt) == list(range(29))


@pytest.mark.parametrize("outer", [pod, step])
def test_a_torchrun_over_several_machines_has_counted_them(
    outer: Callable[[int, int], dict[str, str]],
) -> None:
    dealt = [
        shard
        for rank in range(8)
        for shard in shards.choose(
            INFER, ("auto",), 29, {**outer(rank // 4, 2), **torchrun(rank, 8, groups=2)}
        )
        or ()
    ]
    assert sorted(dealt) == list(range(29))


def test_the_script_of_a_job_is_none_of_its_tasks() -> None:
    script = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    with pytest.raises(ParamsError, match=r"has SLURM_NTASKS = 4 tasks, and this is its script"):
        shards.choose(INFER, ("auto",), 6, script)
    # Where it does what one task of an array does, or starts torchrun, it is counted already.
    assert shards.choose(INFER, ("auto",), 6, {**script, **array(1, 2)}) == (1, 3, 5)
    assert shards.choose(INFER, ("auto",), 6, {**script, **torchrun(1, 2)}) == (1, 3, 5)


def test_without_the_option_torchrun_means_auto() -> None:
    assert shards.choose(INFER, (), 6, torchrun(1, 4)) == (1, 5)
    assert shards.choose(INFER, (), 6, torchrun(0, 1)) is None
    assert shards.choose(find("train"), (), 6, torchrun(1, 4)) is None
    assert shards.choose(INFER, ("2",), 6, torchrun(1, 4)) == (2,)
    assert shards.choose(INFER, (), 6, array(1, 4)) is None
    told = shards.share_of(range(1, 60, 4), torchrun(1, 4))
    assert told.startswith("process 1 (from 0 on) of 4 takes its share, as --shard auto does: ")
    assert told.endswith("shards 1, 5, 9, 13, 17, 21, 25, 29, ...")
    assert shards.share_of((), torchrun(3, 4)).endswith(": no shard")


@pytest.mark.parametrize("num_tasks", [1, 2, 5, 9])
def test_auto_deals_out_every_shard_once(num_tasks: int) -> None:
    dealt = [
        shard
        for task in range(num_tasks)
        for shard in shards.choose(
            INFER, ("auto",), 7, {"RANK": str(task), "WORLD_SIZE": str(num_tasks)}
        )
        or ()
    ]
    assert sorted(dealt) == list(range(7))


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({}, "no task found; it reads SLURM_ARRAY_TASK_ID"),
        ({"JOB_COMPLETION_INDEX": "1"}, "set FERKD_NUM_TASKS"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK = 'one': must be a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK = 2 must be below WORLD_SIZE = 2"),
        (
            {
                "SLURM_ARRAY_TASK_ID": "7",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_ARRAY_TASK_MIN": "3",
            },
            "not evenly spaced",
        ),
    ],
)
def test_auto_without_a_task_that_makes_sense(environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(ParamsError, match=complaint):
        shards.choose(INFER, ("auto",), 4, environment)

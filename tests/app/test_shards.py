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
    ],
)
def test_auto(environment: dict[str, str], expected: tuple[int, ...]) -> None:
    assert shards.choose(INFER, ("auto",), 6, environment) == expected


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

"""Which shards a command works on: those named by `--shard`, or those of a cluster's task."""

import os
from collections.abc import Mapping, Sequence

from ferkd_pipeline.stage_table import StageInfo
from store.errors import ParamsError

AUTO = "auto"

_MOST_DIGITS = 20


def choose(
    stage: StageInfo,
    wanted: Sequence[str],
    num_shards: int,
    environment: Mapping[str, str] = os.environ,
) -> tuple[int, ...] | None:
    """Return the shards that `--shard` values stand for, sorted, or None for the whole stage.

    Empty when the task of a cluster has none.

    Raises:
        ParamsError: the stage has no shards, a value is no shard, or `auto` finds no task.
    """
    if not wanted:
        return None
    if not stage.sharded:
        raise ParamsError(f"--shard: stage {stage.name} has no shards; run it without --shard")
    if AUTO in wanted:
        if len(set(wanted)) > 1:
            raise ParamsError("--shard auto cannot be joined with shard numbers")
        task, num_tasks = task_of(environment)
        return tuple(range(task, num_shards, num_tasks))
    return tuple(sorted({_number(text, num_shards) for text in wanted}))


def _number(text: str, num_shards: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not is_number or int(text) >= num_shards:
        shown = text if len(text) <= _MOST_DIGITS else f"{text[:_MOST_DIGITS]}..."
        raise ParamsError(
            f"--shard {shown}: must be 0 to {num_shards - 1} (store.num_shards is {num_shards}), "
            "or auto"
        )
    return int(text)


def task_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return (task, number of tasks) of a Slurm array, an indexed Kubernetes job or torchrun.

    Raises:
        ParamsError: none of them is there, or its numbers do not make sense.
    """
    if "SLURM_ARRAY_TASK_ID" in environment:
        return _slurm(environment)
    if "JOB_COMPLETION_INDEX" in environment:
        return _pair(environment, "JOB_COMPLETION_INDEX", "FERKD_NUM_TASKS")
    if "RANK" in environment:
        return _pair(environment, "RANK", "WORLD_SIZE")
    raise ParamsError(
        "--shard auto: no task found; it reads SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, "
        "JOB_COMPLETION_INDEX and FERKD_NUM_TASKS, or RANK and WORLD_SIZE"
    )


def _slurm(environment: Mapping[str, str]) -> tuple[int, int]:
    first = _read(environment, "SLURM_ARRAY_TASK_MIN", "0")
    step = max(_read(environment, "SLURM_ARRAY_TASK_STEP", "1"), 1)
    offset = _read(environment, "SLURM_ARRAY_TASK_ID") - first
    num_tasks = _read(environment, "SLURM_ARRAY_TASK_COUNT")
    if offset % step or not 0 <= offset // step < num_tasks:
        raise ParamsError(
            "--shard auto: the numbers of this Slurm array are not evenly spaced, so shards cannot "
            "be dealt out; submit one such as --array=0-7, or name shards with --shard N"
        )
    return offset // step, num_tasks


def _pair(environment: Mapping[str, str], index: str, count: str) -> tuple[int, int]:
    task, num_tasks = _read(environment, index), _read(environment, count)
    if not 0 <= task < num_tasks:
        raise ParamsError(f"--shard auto: {index} = {task} must be below {count} = {num_tasks}")
    return task, num_tasks


def _read(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environment.get(name, default)
    if text is None:
        raise ParamsError(f"--shard auto: set {name} to the number of tasks")
    try:
        return int(text)
    except ValueError:
        raise ParamsError(
            f"--shard auto: {name} = {text[:_MOST_DIGITS]!r}: must be a whole number"
        ) from None

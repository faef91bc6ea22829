"""Which shards a command works on: those named by `--shard`, or those of a cluster's task.

A cluster tells each task its number by variables of the environment. Tasks may hold tasks: each of
a Slurm array may start several processes by srun, or by torchrun. They are counted through.
"""

import os
from collections.abc import Mapping, Sequence

from ferkd_pipeline.stage_table import StageInfo
from store.errors import ParamsError

AUTO = "auto"

_MOST_DIGITS = 20
_MOST_NAMED = 8


def choose(
    stage: StageInfo,
    wanted: Sequence[str],
    num_shards: int,
    environment: Mapping[str, str] = os.environ,
) -> tuple[int, ...] | None:
    """Return the shards that `--shard` values stand for, sorted, or None for the whole stage.

    Empty when the task of a cluster has none. Without `--shard`, one of several processes that
    torchrun started takes its share, as with `auto`: of all that run the whole stage, one could.

    Raises:
        ParamsError: the stage has no shards, a value is no shard, or `auto` finds no task.
    """
    if not wanted and not (stage.sharded and is_one_of_several(environment)):
        return None
    if not stage.sharded:
        raise ParamsError(f"--shard: stage {stage.name} has no shards; run it without --shard")
    if AUTO in wanted or not wanted:
        if len(set(wanted)) > 1:
            raise ParamsError("--shard auto cannot be joined with shard numbers")
        task, num_tasks = task_of(environment)
        return tuple(range(task, num_shards, num_tasks))
    return tuple(sorted({_number(text, num_shards) for text in wanted}))


def share_of(chosen: Sequence[int], environment: Mapping[str, str] = os.environ) -> str:
    """Return what people are told of a share that nobody named."""
    task, num_tasks = task_of(environment)
    more = ", ..." if len(chosen) > _MOST_NAMED else ""
    named = ", ".join(map(str, chosen[:_MOST_NAMED])) + more
    what = f"shards {named}" if chosen else "no shard"
    return (
        f"process {task} (from 0 on) of {num_tasks} takes its share, as --shard auto does: {what}"
    )


def _number(text: str, num_shards: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not is_number or int(text) >= num_shards:
        shown = text if len(text) <= _MOST_DIGITS else f"{text[:_MOST_DIGITS]}..."
        raise ParamsError(
            f"--shard {shown}: must be 0 to {num_shards - 1} (store.num_shards is {num_shards}), "
            "or auto"
        )
    return int(text)


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether torchrun (or what sets its variables) started this process beside others.

    Raises:
        ParamsError: its variables make no sense.
    """
    return "RANK" in environment and _pair(environment, "RANK", "WORLD_SIZE")[1] > 1


def task_of(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (task, number of tasks) of a Slurm array or step, a Kubernetes job, or torchrun.

    Raises:
        ParamsError: none of them is there, or its numbers do not make sense.
    """
    levels = _levels(environment)
    if not levels:
        raise ParamsError(
            "--shard auto: no task found; it reads SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, "
            "SLURM_PROCID and SLURM_NTASKS, JOB_COMPLETION_INDEX and FERKD_NUM_TASKS, or RANK and "
            "WORLD_SIZE"
        )
    task, num_tasks = 0, 1
    for index, count in levels:
        task, num_tasks = task * count + index, num_tasks * count
    return task, num_tasks


def _levels(environment: Mapping[str, str]) -> list[tuple[int, int]]:
    """(index, count) of each level at which tasks are counted, the outermost first."""
    levels: list[tuple[int, int]] = []
    # One torchrun over several machines counts its processes through: the tasks that started its
    # parts are counted already. Where every task has a torchrun of its own, they are not.
    spans = "RANK" in environment and _read(environment, "GROUP_WORLD_SIZE", "1") > 1
    if "SLURM_ARRAY_TASK_ID" in environment:
        levels.append(_slurm_array(environment))
    elif "JOB_COMPLETION_INDEX" in environment and not spans:
        levels.append(_pair(environment, "JOB_COMPLETION_INDEX", "FERKD_NUM_TASKS"))
    if "SLURM_PROCID" in environment and not spans:
        levels += _slurm_step(environment, bool(levels) or "RANK" in environment)
    if "RANK" in environment:
        levels.append(_pair(environment, "RANK", "WORLD_SIZE"))
    return levels


def _slurm_array(environment: Mapping[str, str]) -> tuple[int, int]:
    if "FERKD_NUM_TASKS" in environment:  # some tasks of a larger array, submitted again
        return _pair(environment, "SLURM_ARRAY_TASK_ID", "FERKD_NUM_TASKS")
    first = _read(environment, "SLURM_ARRAY_TASK_MIN", "0")
    step = max(_read(environment, "SLURM_ARRAY_TASK_STEP", "1"), 1)
    offset = _read(environment, "SLURM_ARRAY_TASK_ID") - first
    num_tasks = _read(environment, "SLURM_ARRAY_TASK_COUNT")
    if offset % step or not 0 <= offset // step < num_tasks:
        raise ParamsError(
            "--shard auto: the numbers of this Slurm array are not evenly spaced, so shards cannot "
            "be dealt out; submit one such as --array=0-7, or, for some tasks of such a one again, "
            "set FERKD_NUM_TASKS to how many it had"
        )
    return offset // step, num_tasks


def _slurm_step(environment: Mapping[str, str], others: bool) -> list[tuple[int, int]]:
    """Where srun started this process.

    A job's script has SLURM_PROCID too, always 0, however many tasks the job has: it is none of
    them, and does what it does once. Where ``others`` count it already, that is right.
    """
    is_started = "SLURM_STEP_NUM_TASKS" in environment
    count = "SLURM_STEP_NUM_TASKS" if is_started else "SLURM_NTASKS"
    if count not in environment:
        return []
    is_script = "SLURM_JOB_ID" in environment and not is_started
    if is_script and others:
        return []
    if is_script and _read(environment, count) > 1:
        raise ParamsError(
            f"--shard auto: the Slurm job has {count} = {environment[count]} tasks, and this is "
            "its script, none of them; start them: srun ferkd-pipeline stage NAME --shard auto"
        )
    return [_pair(environment, "SLURM_PROCID", count)]


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

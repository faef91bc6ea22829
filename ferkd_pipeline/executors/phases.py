"""A run of a sharded stage, cut where a cluster can take over: before, each shard, and after.

The three are what `engine.run_stage` does in one process. Each is called in some process that has
what the stage needs (a GPU, say), with the project's folder as the current one; what they take and
return can be sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ferkd_pipeline import engine, outdated, stage_table
from ferkd_pipeline.engine import ShardOutcome, StageOutcome
from ferkd_pipeline.jobs import Job, fit, in_order, jobs_of, opened
from ferkd_pipeline.params import Params
from stages.shared.contract import Progress
from store import entries, images

Shards = tuple[int, ...] | None
"""Those named, or all."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which shard, and of stage calibrate whose."""

    shard: int
    calibration: str | None = None


@dataclass(frozen=True, slots=True)
class Todo:
    """A shard that has to run."""

    place: Place
    label: str
    """To people: ``infer shard 3``."""
    stem: str
    """``part-00003``."""
    num_crops: int
    """How many crops it has."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What there is to do."""

    todo: tuple[Todo, ...]
    lines: tuple[str, ...]
    """What calibrate chose from the labels, in sentences."""


def prepare(
    params: Params, name: str, shards: Shards, *, force: bool, progress: Progress
) -> Prepared:
    """Do what comes before all shards: fit calibrations, remove what is outdated.

    Of a whole stage, the caller holds the stage's lock.

    Raises:
        ParamsError: a parameter is wrong.
        DataError: an input is missing or does not fit.
        RetryError: another process writes a shard that is to go.
    """
    info = stage_table.find(name)
    is_fitted = name == "calibrate" and shards is None
    lines = fit(params, progress) if is_fitted else ()
    jobs = jobs_of(params, info, shards)
    if shards is None:
        outdated.clear(jobs)
    wanted = [job for job in jobs if force or job.why_incomplete() is not None]
    count = _crops_of(params, wanted)
    todo = [
        Todo(Place(job.shard, job.calibration), job.label, job.writer.stem, count(job))
        for job in wanted
    ]
    return Prepared(tuple(todo), lines)


def _crops_of(params: Params, jobs: list[Job]) -> Any:
    """A function that gives the number of a job's crops: from the plan, or what it will be."""
    if jobs and jobs[0].writer.stage == "sample":
        num_images = len(images.load(jobs[0].writer.layout, with_hashes=False))
        config: Any = params.section("sample")

        def planned(job: Job) -> int:
            start, stop = images.shard_bounds(num_images, params.store.num_shards, job.shard)
            return int((stop - start) * config.num_crops)

        return planned

    def drawn(job: Job) -> int:
        entry = entries.find_entry(job.writer.layout, "crops", job.writer.stem)
        return 0 if entry is None else entry.rows

    return drawn


def run_shard(
    params: Params, name: str, place: Place, *, force: bool, progress: Progress
) -> ShardOutcome:
    """Run one shard, unless it is complete.

    Raises:
        RetryError: another process runs it, or a disk does not answer.
        FerkdError: see the stage.
    """
    jobs = jobs_of(params, stage_table.find(name), (place.shard,))
    job = next(job for job in jobs if job.calibration == place.calibration)
    return engine.run_job(job, progress, force=force)


def finish(
    params: Params, name: str, shards: Shards, done: Sequence[ShardOutcome], *, progress: Progress
) -> StageOutcome:
    """Do what comes after all shards: check that they are complete, merge their entries.

    ``done`` are the outcomes of those that ran; the others were complete before.

    Raises:
        RetryError: a shard is not complete, since another process changed it meanwhile.
    """
    info = stage_table.find(name)
    of_shard = opened(params, info)
    numbers = range(params.store.num_shards) if shards is None else shards
    jobs = in_order(map(of_shard, numbers))
    ran = {Place(each.shard or 0, each.calibration): each for each in done}
    outcomes = [ran.get(Place(job.shard, job.calibration)) or engine.skipped(job) for job in jobs]
    if shards is None:
        return engine.finish_all(info, jobs, outcomes)
    return engine.finish_some(params, info, of_shard, jobs, outcomes)


def with_lines(outcome: StageOutcome, lines: tuple[str, ...]) -> StageOutcome:
    """The outcome with what `prepare` had to say before its own lines."""
    return replace(outcome, lines=(*lines, *outcome.lines))

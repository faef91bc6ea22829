"""Running stages: which shards need work, one writer a shard, manifests.

The command line, DVC and the executors of clusters all come through here. A shard's key says
whether what is on disk is what the parameters and inputs ask for.
"""

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from ferkd_pipeline import outdated, stage_table, whole_stages
from ferkd_pipeline.failures import Failure, error_of
from ferkd_pipeline.jobs import Job, fit, in_order, jobs_of, opened, why_unfitted
from ferkd_pipeline.params import Params
from ferkd_pipeline.stage_table import StageInfo
from ferkd_pipeline.whole.common import layout_of
from stages.shared.contract import Json, Progress, Report
from store import entries, lock, shelf
from store.errors import DataError, RetryError, ShardError
from store.layout import part_name
from store.parts import PartWriter

Action = Literal["skip", "run"]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What would be done with a shard (None: the stage as a whole), and why."""

    shard: int | None
    action: Action
    why: str
    calibration: str | None = None
    """Whose shard it is, of stage calibrate."""


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What was done with a shard (None: the stage as a whole)."""

    shard: int | None
    action: Action
    numbers: dict[str, Json]
    """What the stage counted: from its entry where the shard was complete already."""
    calibration: str | None = None
    """Whose shard it is, of stage calibrate."""


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """What a run of a stage did, and what there is to say of its shards together."""

    shards: tuple[ShardOutcome, ...]
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    is_complete: bool = True
    """Whether all shards of the stage are complete, those of others too, and its manifests say so.
    """


def plan_stage(
    params: Params, name: str, shards: tuple[int, ...] | None, *, force: bool = False
) -> list[ShardPlan]:
    """What `run_stage` would do; starts no work.

    Raises:
        ParamsError: a parameter is wrong.
        DataError: an input is missing or does not fit.
    """
    info = stage_table.find(name)
    if not info.sharded:
        why = whole_stages.why_incomplete(params, name)
        return [_plan(None, why, force)]
    # A run of all shards fits first; of some, it refuses to without a fit.
    unfitted = why_unfitted(params) if name == "calibrate" and shards is None else {}
    plans = [
        ShardPlan(shard, "run", why, calibration)
        for calibration, why in unfitted.items()
        for shard in range(params.store.num_shards)
    ]
    jobs = jobs_of(params, info, shards, without=unfitted)
    return plans + [_plan(job.shard, job.why_incomplete(), force, job.calibration) for job in jobs]


def _plan(
    shard: int | None, why: str | None, force: bool, calibration: str | None = None
) -> ShardPlan:
    if why is None and not force:
        return ShardPlan(shard, "skip", "complete", calibration)
    return ShardPlan(shard, "run", why or "forced", calibration)


def run_stage(
    params: Params,
    name: str,
    shards: tuple[int, ...] | None,
    *,
    progress: Progress,
    force: bool = False,
) -> StageOutcome:
    """Run a stage: all its shards (``shards`` None), or those named. Skips what is complete.

    Raises:
        RetryError: another process runs the same stage, or one of these shards.
        ShardError: some shards can never succeed; the others are complete.
        FerkdError: see the stage; whatever was published before stays whole.
    """
    info = stage_table.find(name)
    if not info.sharded:
        if not force and whole_stages.why_incomplete(params, name) is None:
            return StageOutcome((ShardOutcome(None, "skip", {}),))
        report = whole_stages.run(params, name, progress, force=force)
        whole = ShardOutcome(None, "run", report.numbers)
        return StageOutcome((whole,), report.lines, report.warnings)
    if shards is None:
        return _run_all(params, info, progress, force)
    of_shard = opened(params, info)
    jobs = in_order(map(of_shard, shards))
    return finish_some(params, info, of_shard, jobs, _run_each(jobs, progress, force))


def _run_all(params: Params, info: StageInfo, progress: Progress, force: bool) -> StageOutcome:
    """All shards, by one process: of two with other parameters, each would undo the other's."""
    layout = layout_of(params)
    with contextlib.ExitStack() as stack:
        chosen: tuple[str, ...] = ()
        if info.name == "calibrate":
            stack.enter_context(lock.hold(layout.stage_lock(info.name)))
            chosen = fit(params, progress)
        jobs = jobs_of(params, info, None)
        if info.name != "calibrate" and (force or any(job.why_incomplete() for job in jobs)):
            stack.enter_context(lock.hold(layout.stage_lock(info.name)))
        outdated.clear(jobs)
        together = finish_all(info, jobs, _run_each(jobs, progress, force))
    return replace(together, lines=(*chosen, *together.lines))


def finish_all(info: StageInfo, jobs: list[Job], outcomes: list[ShardOutcome]) -> StageOutcome:
    """After all shards were run: check that they are complete, and merge their entries.

    Raises:
        RetryError: one is not, since another process changed it meanwhile.
    """
    for job in jobs:
        if (why := job.why_incomplete()) is not None:
            raise RetryError(
                f"{job.writer.artifact}/{job.writer.stem} was changed by another process "
                f"meanwhile ({why}); wait for it to end, then run again"
            )
    for artifact in _artifacts(jobs):
        entries.write_manifest(jobs[0].writer.layout, artifact)
    return _together(info, jobs, outcomes)


def finish_some(
    params: Params,
    info: StageInfo,
    of_shard: Callable[[int], list[Job]],
    jobs: list[Job],
    outcomes: list[ShardOutcome],
) -> StageOutcome:
    """After some shards were run: where they were the last ones, merge the entries of all."""
    together = _together(info, jobs, outcomes)
    return replace(together, is_complete=_merge_if_last(params, info, of_shard, jobs))


def _merge_if_last(
    params: Params, info: StageInfo, of_shard: Callable[[int], list[Job]], jobs: list[Job]
) -> bool:
    """Write the manifests if every shard of the stage is complete; False where one is not.

    Tasks of a cluster end in any order and wait for nobody. Each looks after its last shard is
    published, so the last one of all sees that they are complete; of several that do, one writes.
    """
    numbers, layout = range(params.store.num_shards), layout_of(params)
    wanted = [layout.entry("", part_name(shard)).name for shard in numbers]
    artifacts = _artifacts(jobs)
    for artifact in artifacts:  # a look at names: most tasks are not the last
        if [path.name for path in entries.entry_paths(layout, artifact)] != wanted:
            return False
    try:
        everything = in_order(map(of_shard, numbers))
        if not artifacts or not _are_complete(everything):
            return False
        with lock.hold(layout.stage_lock(info.name)):
            if not _are_complete(everything):
                return False
            for artifact in artifacts:
                entries.write_manifest(layout, artifact)
    except (DataError, RetryError):  # inputs of others are not there; another one is writing it
        return False
    return True


def _are_complete(jobs: list[Job]) -> bool:
    return all(job.why_incomplete() is None for job in jobs)


def _artifacts(jobs: list[Job]) -> list[str]:
    return list(dict.fromkeys(job.writer.artifact for job in jobs))


def _together(info: StageInfo, jobs: list[Job], outcomes: list[ShardOutcome]) -> StageOutcome:
    """Let the stage say what its shards show together, artifact by artifact."""
    module = importlib.import_module(f"{info.module}.run")
    lines: list[str] = []
    warnings: list[str] = []
    for artifact in _artifacts(jobs):
        pairs = zip(jobs, outcomes, strict=True)
        numbers = [done.numbers for job, done in pairs if job.writer.artifact == artifact]
        report: Report = module.summarise(artifact, numbers)
        lines += report.lines
        warnings += report.warnings
    return StageOutcome(tuple(outcomes), tuple(lines), tuple(warnings))


def _run_each(jobs: list[Job], progress: Progress, force: bool) -> list[ShardOutcome]:
    """One after the other. A shard that can never succeed keeps none of the others from it."""
    outcomes: list[ShardOutcome] = []
    failures: list[Failure] = []
    for job in jobs:
        try:
            outcomes.append(run_job(job, progress, force=force))
        except ShardError as error:
            if len(jobs) == 1:
                raise
            failures.append(Failure(job.label, ShardError, str(error)))
            progress.note(f"{job.label} failed: {error}")
    if failures:
        raise error_of(failures)
    return outcomes


def run_job(job: Job, progress: Progress, *, force: bool) -> ShardOutcome:
    """Run one shard, unless it is complete: what every executor calls.

    Raises:
        RetryError: another process runs it.
        FerkdError: see the stage.
    """
    writer = job.writer
    if job.why_incomplete() is None and not force:
        return skipped(job)
    with lock.hold(writer.layout.lock(writer.artifact, writer.stem)):
        if not force and _complete_now(job):
            return skipped(job)
        numbers = job.run(writer, progress).numbers
        return ShardOutcome(job.shard, "run", numbers, job.calibration)


def skipped(job: Job) -> ShardOutcome:
    """The outcome of a shard that is complete already."""
    entry = _entry(job.writer)
    return ShardOutcome(job.shard, "skip", entry.numbers if entry else {}, job.calibration)


def _complete_now(job: Job) -> bool:
    """Look again under the lock; set an outdated shard aside, take a fitting one back."""
    writer = job.writer
    if job.why_incomplete() is None:
        return True
    if not job.persists:
        return False
    entry = _entry(writer)
    if entry is not None and entry.key != writer.key:
        shelf.set_aside(writer.layout, writer.artifact, writer.stem, writer.stage)
    return shelf.take_back(writer.layout, writer.artifact, writer.stem, writer.stage, writer.key)


def _entry(writer: PartWriter) -> entries.Entry | None:
    try:
        return entries.find_entry(writer.layout, writer.artifact, writer.stem)
    except DataError:
        return None

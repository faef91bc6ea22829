"""Running stages: which shards need work, one writer a shard, manifests.

The command line, DVC and a cluster engine all come through here. A shard's key says whether what
is on disk is what the parameters and inputs ask for.
"""

import contextlib
import importlib
from dataclasses import dataclass, replace
from typing import Literal

from ferkd_pipeline import stage_table, whole_stages
from ferkd_pipeline.jobs import Job, fit, jobs_of, why_unfitted
from ferkd_pipeline.params import Params
from ferkd_pipeline.stage_table import StageInfo
from ferkd_pipeline.whole.common import layout_of
from stages.shared.contract import Json, Progress, Report
from store import entries, lock, shelf
from store.atomic import remove
from store.errors import DataError, RetryError
from store.layout import Layout, is_of_store, part_name, shard_of_file
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
    jobs = jobs_of(params, info, shards)
    return _together(info, jobs, [_run_job(job, progress, force) for job in jobs])


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
        _clear_outdated(jobs)
        outcomes = [_run_job(job, progress, force) for job in jobs]
        for job in jobs:
            if (why := job.why_incomplete()) is not None:
                raise RetryError(
                    f"{job.writer.artifact}/{job.writer.stem} was changed by another process "
                    f"meanwhile ({why}); wait for it to end, then run again"
                )
        for artifact in dict.fromkeys(job.writer.artifact for job in jobs):
            entries.write_manifest(layout, artifact)
    together = _together(info, jobs, outcomes)
    return replace(together, lines=(*chosen, *together.lines))


def _together(info: StageInfo, jobs: list[Job], outcomes: list[ShardOutcome]) -> StageOutcome:
    """Let the stage say what its shards show together, artifact by artifact."""
    module = importlib.import_module(f"{info.module}.run")
    lines: list[str] = []
    warnings: list[str] = []
    for artifact in dict.fromkeys(job.writer.artifact for job in jobs):
        pairs = zip(jobs, outcomes, strict=True)
        numbers = [done.numbers for job, done in pairs if job.writer.artifact == artifact]
        report: Report = module.summarise(artifact, numbers)
        lines += report.lines
        warnings += report.warnings
    return StageOutcome(tuple(outcomes), tuple(lines), tuple(warnings))


def _run_job(job: Job, progress: Progress, force: bool) -> ShardOutcome:
    writer = job.writer
    if job.why_incomplete() is None and not force:
        return _skipped(job)
    with lock.hold(writer.layout.lock(writer.artifact, writer.stem)):
        if not force and _complete_now(job):
            return _skipped(job)
        numbers = job.run(writer, progress).numbers
        return ShardOutcome(job.shard, "run", numbers, job.calibration)


def _skipped(job: Job) -> ShardOutcome:
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


def _clear_outdated(jobs: list[Job]) -> None:
    """Before a whole stage runs: nothing stale may stand beside something new."""
    for artifact in dict.fromkeys(job.writer.artifact for job in jobs):
        mine = [job for job in jobs if job.writer.artifact == artifact]
        layout, stage = mine[0].writer.layout, mine[0].writer.stage
        wanted = {job.writer.stem: job.writer.key for job in mine}
        found = {shard_of_file(path.name) for path in layout.folder(artifact).glob("*-*")}
        for stem in sorted(part_name(shard) for shard in found if shard is not None):
            if entries.why_incomplete(layout, artifact, stem, wanted.get(stem, "")) is not None:
                with lock.hold(layout.lock(artifact, stem)):
                    _clear(layout, artifact, stem, stage, wanted.get(stem), mine[0].persists)


def _clear(
    layout: Layout, artifact: str, stem: str, stage: str, key: str | None, persists: bool
) -> None:
    """Set aside or delete a part that has not this key; one without an entry is a remnant."""
    try:
        entry = entries.find_entry(layout, artifact, stem)
    except DataError:
        entry = None
    if entry is not None and (entry.key == key or persists):
        if entry.key != key:
            shelf.set_aside(layout, artifact, stem, stage)
        return
    if entry is None and key is not None:
        return  # this run writes it anew, or takes it up where a killed one stopped
    entries.withdraw(layout, artifact, stem)
    for path in layout.folder(artifact).glob(f"*-{stem.partition('-')[2]}.*"):
        if is_of_store(path.name):  # what else lies there is somebody's
            remove(path)

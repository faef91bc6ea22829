"""Running stages: which shards need work, one writer a shard, manifests, and DVC's record.

The command line, DVC and a cluster engine all come through here. A shard's key says whether what
is on disk is what the parameters and inputs ask for.
"""

import importlib
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from shutil import which
from typing import Any, Literal

from ferkd_pipeline import stage_table, whole_stages
from ferkd_pipeline.params import Params
from ferkd_pipeline.stage_table import StageInfo
from stages.shared.contract import Json, Progress, Report, ShardInputs, Source, keyed_params
from store import entries, lock, shelf
from store.atomic import remove
from store.digest import sha256_json
from store.errors import DataError, FerkdError
from store.layout import FORMAT_VERSION, Layout, part_name
from store.parts import PartWriter

Action = Literal["skip", "run"]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What would be done with a shard (None: the stage as a whole), and why."""

    shard: int | None
    action: Action
    why: str


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What was done with a shard (None: the stage as a whole)."""

    shard: int | None
    action: Action
    numbers: dict[str, Json]
    """What the stage counted: from its entry where the shard was complete already."""


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """What a run of a stage did, and what there is to say of its shards together."""

    shards: tuple[ShardOutcome, ...]
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordOutcome:
    """What `record` found and did."""

    stage: str
    num_shards: int
    manifest: str
    dvc: str


@dataclass(frozen=True, slots=True)
class _Job:
    """One shard of one artifact, ready to be looked at or run."""

    shard: int
    writer: PartWriter
    run: Callable[[PartWriter, Progress], Report]
    persists: bool
    """Whether outdated shards are set aside instead of replaced."""

    def why_incomplete(self) -> str | None:
        writer = self.writer
        return entries.why_incomplete(writer.layout, writer.artifact, writer.stem, writer.key)


def layout_of(params: Params) -> Layout:
    """The store's layout: ``.ferkd/`` lies beside the store's folder."""
    return Layout.beside(params.store.root)


def source_of(params: Params) -> Source:
    """The store that the sharded stages work on."""
    folder = whole_stages.images_folder(params)
    return Source(layout_of(params), params.store.num_shards, folder)


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
    return [_plan(job.shard, job.why_incomplete(), force) for job in _jobs(params, info, shards)]


def _plan(shard: int | None, why: str | None, force: bool) -> ShardPlan:
    if why is None:
        return ShardPlan(shard, "run", "forced") if force else ShardPlan(shard, "skip", "complete")
    return ShardPlan(shard, "run", why)


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
        FerkdError: see the stage; whatever was published before stays whole.
    """
    info = stage_table.find(name)
    if not info.sharded:
        if not force and whole_stages.why_incomplete(params, name) is None:
            return StageOutcome((ShardOutcome(None, "skip", {}),))
        report = whole_stages.run(params, name, progress)
        whole = ShardOutcome(None, "run", report.numbers)
        return StageOutcome((whole,), report.lines, report.warnings)
    if name == "calibrate" and shards is None:
        _fit(params, progress)
    jobs = _jobs(params, info, shards)
    if shards is None:
        _clear_outdated(jobs)
    outcomes = [_run_job(job, progress, force) for job in jobs]
    if shards is None:
        for artifact in dict.fromkeys(job.writer.artifact for job in jobs):
            entries.write_manifest(layout_of(params), artifact)
    return _together(info, jobs, outcomes)


def _together(info: StageInfo, jobs: list[_Job], outcomes: list[ShardOutcome]) -> StageOutcome:
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


def _run_job(job: _Job, progress: Progress, force: bool) -> ShardOutcome:
    writer = job.writer
    if job.why_incomplete() is None and not force:
        return _skipped(job)
    with lock.hold(writer.layout.lock(writer.artifact, writer.stem)):
        if not force and _complete_now(job):
            return _skipped(job)
        return ShardOutcome(job.shard, "run", job.run(writer, progress).numbers)


def _skipped(job: _Job) -> ShardOutcome:
    entry = _entry(job.writer)
    return ShardOutcome(job.shard, "skip", entry.numbers if entry else {})


def _complete_now(job: _Job) -> bool:
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


def _clear_outdated(jobs: list[_Job]) -> None:
    """Before a whole stage runs: nothing stale may stand beside something new."""
    for artifact in dict.fromkeys(job.writer.artifact for job in jobs):
        mine = [job for job in jobs if job.writer.artifact == artifact]
        layout, stage = mine[0].writer.layout, mine[0].writer.stage
        wanted = {job.writer.stem: job.writer.key for job in mine}
        found = {path.name.split(".")[0] for path in layout.folder(artifact).glob("*part-*")}
        for stem in sorted({name.lstrip("_") for name in found if name}):
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
    for path in (layout.table(artifact, stem), layout.arrays(artifact, stem)):
        remove(path)


def _jobs(params: Params, info: StageInfo, shards: tuple[int, ...] | None) -> list[_Job]:
    numbers = range(params.store.num_shards) if shards is None else shards
    if info.name == "calibrate":
        return [job for recipe in _recipes(params) for job in _recipe_jobs(params, recipe, numbers)]
    config: Any = params.section(info.name)
    module = importlib.import_module(f"{info.module}.run")
    inputs_of: Callable[[int], ShardInputs] = module.open_inputs(config, source_of(params))
    return [_job(params, info.name, shard, inputs_of(shard), module, config) for shard in numbers]


def _recipes(params: Params) -> list[Any]:
    module = importlib.import_module("stages.calibrate.run")
    config: Any = params.section("calibrate")
    return [module.Recipe(name, steps) for name, steps in config.root.items()]


def _fit(params: Params, progress: Progress) -> None:
    """The first phase of calibrate, over all shards, and the removal of calibrations of old."""
    module = importlib.import_module("stages.calibrate.run")
    recipes, source = _recipes(params), source_of(params)
    for recipe in recipes:
        module.fit(recipe, source, progress)
    folder = source.layout.folder("calibrated")
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and path.name not in {recipe.name for recipe in recipes}:
            remove(path)


def _recipe_jobs(params: Params, recipe: Any, numbers: Iterable[int]) -> list[_Job]:
    module = importlib.import_module("stages.calibrate.run")
    inputs_of: Callable[[int], ShardInputs] = module.open_inputs(recipe, source_of(params))
    return [_job(params, "calibrate", shard, inputs_of(shard), module, recipe) for shard in numbers]


def _job(
    params: Params, stage: str, shard: int, inputs: ShardInputs, module: Any, config: Any
) -> _Job:
    """``config`` is a stage's section, or one recipe of the section calibrate."""
    is_recipe = stage == "calibrate"
    lineage = {
        "revision": module.REVISION,
        "params": config.params() if is_recipe else keyed_params(config),
        "inputs": inputs.lineage(),
    }
    key = sha256_json({"format": FORMAT_VERSION, "stage": stage, **lineage})
    artifact = config.artifact if is_recipe else module.ARTIFACT
    writer = PartWriter(layout_of(params), artifact, part_name(shard), stage, key, lineage)

    def run(output: PartWriter, progress: Progress) -> Report:
        report: Report = module.run(config, inputs, output, progress)
        return report

    return _Job(shard, writer, run, persists=stage == "infer")


def record_stage(params: Params, name: str) -> RecordOutcome:
    """Check that a stage is complete, write its manifests, and record it with DVC.

    Raises:
        DataError: a shard is missing or outdated; names it and the command that makes it.
        FerkdError: DVC failed.
    """
    info = stage_table.find(name)
    artifacts: list[str] = []
    num_shards = 1
    if info.sharded:
        jobs = _jobs(params, info, None)
        for job in jobs:
            why = job.why_incomplete()
            if why is not None:
                raise DataError(
                    f"{job.writer.artifact}/{job.writer.stem}: {why}; run "
                    f"`ferkd-pipeline stage {name} --shard {job.shard}`"
                )
        artifacts = list(dict.fromkeys(job.writer.artifact for job in jobs))
        num_shards = params.store.num_shards
    elif (why := whole_stages.why_incomplete(params, name)) is not None:
        raise DataError(f"{name}: {why}; run `ferkd-pipeline stage {name}`")
    layout = layout_of(params)
    digests = [f"{name} {entries.write_manifest(layout, name)[:12]}" for name in artifacts]
    manifest = f"manifest {', '.join(digests)}" if digests else "no manifest of its own"
    return RecordOutcome(name, num_shards, manifest, _commit_with_dvc(params, name))


def _commit_with_dvc(params: Params, name: str) -> str:
    folder = params.path.resolve().parent
    if not (folder / "dvc.yaml").exists():
        return "not recorded with DVC: there is no dvc.yaml"
    if which("dvc") is None:
        return "not recorded with DVC: it is not installed (pip install 'ferkd-pipeline[dvc]')"
    command = ["dvc", "commit", "--force", "--quiet", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        raise FerkdError(f"`dvc commit {name}` failed: {reason}")
    return "recorded with DVC"

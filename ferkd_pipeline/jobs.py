"""Every shard of a stage as a job: its key, its writer, and the call that runs it."""

import importlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ferkd_pipeline.params import Params
from ferkd_pipeline.stage_table import StageInfo
from ferkd_pipeline.whole.common import images_folder, layout_of
from stages.shared.contract import Progress, Report, ShardInputs, Source, keyed_params
from store import entries
from store.atomic import remove
from store.digest import sha256_json
from store.layout import FORMAT_VERSION, part_name
from store.parts import PartWriter


@dataclass(frozen=True, slots=True)
class Job:
    """One shard of one artifact, ready to be looked at or run."""

    shard: int
    calibration: str | None
    """Name of the calibration whose shard it is; None of other stages."""
    writer: PartWriter
    run: Callable[[PartWriter, Progress], Report]
    persists: bool
    """Whether outdated shards are set aside instead of replaced."""

    @property
    def label(self) -> str:
        """What to call it to people: ``infer shard 3``."""
        whose = "" if self.calibration is None else f" {self.calibration}"
        return f"{self.writer.stage}{whose} shard {self.shard}"

    def why_incomplete(self) -> str | None:
        """None where the shard is complete under its key, else the reason. Reads no rows."""
        writer = self.writer
        return entries.why_incomplete(writer.layout, writer.artifact, writer.stem, writer.key)


def source_of(params: Params) -> Source:
    """The store that the sharded stages work on."""
    folder = images_folder(params)
    return Source(layout_of(params), params.store.num_shards, folder)


def jobs_of(
    params: Params,
    info: StageInfo,
    shards: tuple[int, ...] | None,
    *,
    without: Collection[str] = (),
) -> list[Job]:
    """The jobs of a sharded stage: all its shards (None), or those named; none is started.

    ``without`` names calibrations that are left out. Calibrations come one after the other.

    Raises:
        ParamsError: a parameter is wrong.
        DataError: an input is missing or does not fit.
    """
    numbers = range(params.store.num_shards) if shards is None else shards
    return in_order(map(opened(params, info, without=without), numbers))


def opened(
    params: Params, info: StageInfo, *, without: Collection[str] = ()
) -> Callable[[int], list[Job]]:
    """Open what all shards share, a teacher say, once; the result gives the jobs of a shard.

    Raises:
        ParamsError: a parameter is wrong.
        DataError: an input is missing or does not fit.
    """
    module, source = importlib.import_module(f"{info.module}.run"), source_of(params)
    if info.name == "calibrate":
        configs = [recipe for recipe in _recipes(params) if recipe.name not in without]
    else:
        configs = [params.section(info.name)]
    inputs_of: list[Callable[[int], ShardInputs]] = [
        module.open_inputs(config, source) for config in configs
    ]

    def of_shard(shard: int) -> list[Job]:
        pairs = zip(configs, inputs_of, strict=True)
        return [
            _job(params, info.name, shard, inputs(shard), module, config)
            for config, inputs in pairs
        ]

    return of_shard


def in_order(by_shard: Iterable[list[Job]]) -> list[Job]:
    """The jobs of several shards, calibration by calibration."""
    return [job for of_one in zip(*by_shard, strict=True) for job in of_one]


def _recipes(params: Params) -> list[Any]:
    module = importlib.import_module("stages.calibrate.run")
    config: Any = params.section("calibrate")
    return [module.Recipe(name, steps) for name, steps in config.root.items()]


def fit(params: Params, progress: Progress) -> tuple[str, ...]:
    """The first phase of calibrate, over all shards, and the removal of calibrations of old.

    Returns what was chosen from the labels, in sentences.
    """
    module = importlib.import_module("stages.calibrate.run")
    recipes, source = _recipes(params), source_of(params)
    lines = [
        line
        for recipe, found in zip(recipes, module.fit(recipes, source, progress), strict=True)
        for line in module.fit_lines(recipe.name, recipe.steps, found)
    ]
    folder = source.layout.folder("calibrated")
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        is_old = path.is_dir() and path.name not in {recipe.name for recipe in recipes}
        if is_old and entries.is_all_ours(source.layout, f"calibrated/{path.name}"):
            remove(path)  # else somebody keeps other things there
    return tuple(lines)


def why_unfitted(params: Params) -> dict[str, str]:
    """For each calibration whose fit is missing or of something else: why."""
    module, source = importlib.import_module("stages.calibrate.run"), source_of(params)
    whys = {recipe.name: module.why_unfitted(recipe, source) for recipe in _recipes(params)}
    return {name: why for name, why in whys.items() if why is not None}


def _job(
    params: Params, stage: str, shard: int, inputs: ShardInputs, module: Any, config: Any
) -> Job:
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

    return Job(shard, config.name if is_recipe else None, writer, run, stage == "infer")

"""The stages that run as a whole: their typed inputs, and whether what they wrote still fits.

A mark below ``.ferkd/`` remembers, for each stage, the key of what it read and the SHA-256 of what
it wrote. Losing a mark costs one more run and nothing else.
"""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferkd_pipeline import fingerprints, kept
from ferkd_pipeline.params import Params
from stages.shared.contract import Json, Progress, Report, keyed_params
from store import entries, images, lock, upstream
from store.atomic import write_bytes
from store.digest import canonical_json, sha256_file, sha256_json
from store.images import ImageTable
from store.layout import Layout, list_artifacts
from store.view.build import ViewPlan, plan_view

MODELS = Path("models")
METRICS = Path("metrics")
DIGITS = Path("data/digits")
KEPT = ("teacher", "train", "compare")
"""Stages that train: their results are kept, see `kept`."""


@dataclass(frozen=True, slots=True)
class _Whole:
    """One run of a whole stage, ready to be looked at or started."""

    fingerprint: Json
    """Digests of everything it reads; None where only running tells (index)."""
    writes: tuple[Path, ...]
    run: Callable[[Progress, bool], Report]
    """Takes whether what is complete is wanted anew: of a stage that makes several things."""


def images_folder(params: Params) -> Path:
    """Folder of the training images."""
    config: Any = params.section("index")
    return Path(config.images)


def why_incomplete(params: Params, name: str) -> str | None:
    """None where the stage's results are those of its parameters and inputs, else the reason."""
    whole = _prepare(params, name)
    if whole.fingerprint is None:
        return "it looks at every image anew"
    try:
        mark = json.loads(_mark(params, name).read_bytes())
    except (OSError, ValueError):
        return "not made yet"
    if mark.get("key") != _key(params, name, whole):
        return "parameters or inputs changed"
    if mark.get("written") != _written(whole):
        return "its results are missing or were changed"
    return None


def run(params: Params, name: str, progress: Progress, *, force: bool = False) -> Report:
    """Run the stage and remember what it wrote; take a training's results back where it was done.

    The mark of an earlier run stays until then: after a failure it holds as long as the results do
    that it names, for the digest of these stands in it.

    Raises:
        RetryError: another process runs the same stage.
        FerkdError: see the stage.
    """
    with lock.hold(_layout(params).work / "locks" / f"{name}.lock"):
        whole = _prepare(params, name)
        key = _key(params, name, whole)  # of the inputs as they were before it read them
        report = _taken_back(params, name, key, whole, force) or whole.run(progress, force)
        mark = {"key": key, "written": _written(whole)}
        write_bytes(_mark(params, name), canonical_json(mark))
        if name in KEPT:
            kept.keep(_shelf(params, name, key), whole.writes, report)
    return report


def _taken_back(params: Params, name: str, key: str, whole: _Whole, force: bool) -> Report | None:
    if force or name not in KEPT:
        return None
    return kept.take_back(_shelf(params, name, key), whole.writes)


def _shelf(params: Params, name: str, key: str) -> Path:
    return _layout(params).work / "results" / name / sha256_json([key, fingerprints.of_code()])


def _layout(params: Params) -> Layout:
    return Layout.beside(params.store.root)


def _mark(params: Params, name: str) -> Path:
    return _layout(params).work / "done" / f"{name}.json"


def _key(params: Params, name: str, whole: _Whole) -> str:
    module = importlib.import_module(f"stages.{name}.run")
    lineage = {
        "revision": module.REVISION,
        "params": keyed_params(params.section(name)),
        "inputs": whole.fingerprint,
    }
    return sha256_json({"stage": name, **lineage})


def _written(whole: _Whole) -> str:
    """Digest of names and bytes of everything that the stage wrote."""
    files = [path for top in whole.writes for path in fingerprints.files_below(top)]
    return kept.digest({path.as_posix(): path for path in files})


def _optional(path: str | None) -> Path | None:
    return None if path is None else Path(path)


def _shown(table: ImageTable) -> str:
    return table.digest(0, "paths", "class_ids", "content_hashes")


def _prepare(params: Params, name: str) -> _Whole:
    prepare = {
        "digits": _digits,
        "index": _index,
        "teacher": _teacher,
        "score": _score,
        "train": _train,
        "evaluate": _evaluate,
        "compare": _compare,
    }[name]
    return prepare(params)


def _digits(params: Params) -> _Whole:
    from stages.digits import run as stage
    from stages.digits.config import Config

    config = params.typed("digits", Config)
    return _Whole("none", (DIGITS,), lambda progress, _: stage.run(config, DIGITS, progress))


def _index(params: Params) -> _Whole:
    from stages.index import run as stage
    from stages.index.config import Config

    config = params.typed("index", Config)
    layout = _layout(params)
    inputs = stage.Inputs(images_folder(params))
    return _Whole(None, (), lambda progress, _: stage.run(config, inputs, layout, progress))


def _teacher(params: Params) -> _Whole:
    from stages.teacher import run as stage
    from stages.teacher.config import Config

    config = params.typed("teacher", Config)
    table = images.load(_layout(params))
    evaluation = _optional(config.evaluation)
    inputs = stage.Inputs(table, images_folder(params), evaluation)
    outputs = stage.Outputs(MODELS / "teacher", METRICS / "teacher")
    return _Whole(
        {
            "images": _shown(table),
            "evaluation": fingerprints.of_folder(evaluation, "teacher.evaluation"),
            "weights": fingerprints.of_weights(config.model),
            "device": fingerprints.device_kind(config.device),
        },
        (outputs.model, outputs.metrics),
        lambda progress, _: stage.run(config, inputs, outputs, progress),
    )


def _score(params: Params) -> _Whole:
    from stages.score import run as stage
    from stages.score.config import Config

    config = params.typed("score", Config)
    layout = _layout(params)
    table = images.load(layout)
    read = {name: _read_by(name, each) for name, each in config.root.items()}
    shards = range(params.store.num_shards) if config.reads_labels else ()
    labels = [upstream.require_labels(layout, table, len(shards), shard)[1] for shard in shards]
    inputs = stage.Inputs(table, images_folder(params), tuple(labels), read)
    keys = {name: writer.key for name, writer in stage.writers(config, inputs, layout).items()}

    def start(progress: Progress, force: bool) -> Report:
        return stage.run(config, inputs, layout, progress, force=force)

    return _Whole({**keys}, (layout.folder(stage.ARTIFACT),), start)


def _read_by(name: str, settings: Any) -> dict[str, Json]:
    """What scores depend on besides images and labels, where they do."""
    read: dict[str, Json] = {}
    folder = _optional(getattr(settings, "evaluation", None))
    if folder is not None:
        read["evaluation"] = fingerprints.of_folder(folder, f"score.{name}.evaluation")
    if hasattr(settings, "proxy"):
        read["weights"] = fingerprints.of_weights(settings.proxy.model)
        read["device"] = fingerprints.device_kind(settings.proxy.device)
    return read


def _view(params: Params, calibration: str | None) -> ViewPlan:
    layout, num_shards = _layout(params), params.store.num_shards
    return plan_view(layout, num_shards, images_folder(params), calibration)


def _train(params: Params) -> _Whole:
    from stages.train import run as stage
    from stages.train.config import Config

    config = params.typed("train", Config)
    plan = _view(params, config.calibration)
    evaluation = _optional(config.evaluation)
    outputs = stage.Outputs(MODELS / "student", METRICS / "train")

    def start(progress: Progress, _: bool) -> Report:
        digests = {
            name: entries.artifact_digest(plan.layout, name)
            for name in list_artifacts(plan.layout)
            if name in ("soft", f"calibrated/{config.calibration}")
        }
        inputs = stage.Inputs(plan.open(), plan.class_names, evaluation, digests)
        return stage.run(config, inputs, outputs, progress)

    fingerprint: Json = {
        "view": plan.meta.digest,
        "evaluation": fingerprints.of_folder(evaluation, "train.evaluation"),
        "weights": fingerprints.of_weights(config.model),
        "device": fingerprints.device_kind(config.device),
    }
    return _Whole(fingerprint, (outputs.model, outputs.metrics), start)


def _evaluate(params: Params) -> _Whole:
    from stages.evaluate import run as stage
    from stages.evaluate.config import Config

    config = params.typed("evaluate", Config)
    model, output = MODELS / "student", METRICS / "evaluate"
    sets = {name: Path(folder) for name, folder in config.sets.items()}
    inputs = stage.Inputs(model, sets)
    fingerprint: Json = {
        "model": {path.name: sha256_file(path) for path in fingerprints.files_below(model)},
        "sets": {
            name: fingerprints.of_folder(folder, f"evaluate.sets.{name}")
            for name, folder in sets.items()
        },
        "device": fingerprints.device_kind(config.device),
    }
    return _Whole(
        fingerprint, (output,), lambda progress, _: stage.run(config, inputs, output, progress)
    )


def _compare(params: Params) -> _Whole:
    from stages.compare import run as stage
    from stages.compare.config import STORE, TRUTH, Config
    from stages.train.config import Config as TrainConfig

    config = params.typed("compare", Config)
    student = params.typed("train", TrainConfig)
    calibrations = [arm for arm in config.arms if arm not in (TRUTH, STORE)]
    plans = {STORE: _view(params, None), **{arm: _view(params, arm) for arm in calibrations}}
    val, test, output = Path(config.val), _optional(config.test), METRICS / "compare"
    teacher = MODELS / "teacher"

    def start(progress: Progress, _: bool) -> Report:
        inputs = stage.Inputs(
            views={arm: plan.open() for arm, plan in plans.items()},
            class_names=plans[STORE].class_names,
            student=student,
            val=val,
            test=test,
            teacher=teacher if teacher.exists() else None,
        )
        return stage.run(config, inputs, output, progress)

    fingerprint: Json = {
        "views": {arm: plan.meta.digest for arm, plan in plans.items()},
        "student": keyed_params(student),
        "weights": fingerprints.of_weights(student.model),
        "device": fingerprints.device_kind(student.device),
        "val": fingerprints.of_folder(val, "compare.val"),
        "test": fingerprints.of_folder(test, "compare.test"),
    }
    return _Whole(fingerprint, (output,), start)

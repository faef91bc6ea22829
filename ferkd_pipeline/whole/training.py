"""The stages that train."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferkd_pipeline import fingerprints, mapped, own_code
from ferkd_pipeline.params import Params
from ferkd_pipeline.trace.lineage import lineage_of, lineage_of_labels
from ferkd_pipeline.whole.common import (
    images_folder,
    layout_of,
    network,
    optional,
    shown,
)
from ferkd_pipeline.whole.start import METRICS, MODELS, Start, Whole
from stages.shared.contract import Json, Report, keyed_params
from store import entries, images
from store.layout import list_artifacts
from store.view.build import ViewPlan, plan_view


def teacher(params: Params) -> Whole:
    """Trains on the ground truth of the training images."""
    from stages.teacher import run as stage
    from stages.teacher.config import Config

    config = params.typed("teacher", Config)
    table = images.load(layout_of(params))
    evaluation = optional(config.evaluation)
    inputs = stage.Inputs(table, images_folder(params), evaluation)
    writes = (MODELS / "teacher", METRICS / "teacher")

    def run(start: Start) -> Report:
        outputs = stage.Outputs(*writes, start.places("teacher"))
        return stage.run(config, inputs, outputs, start.progress, start.ranks)

    return Whole(
        {
            "images": shown(table),
            "evaluation": fingerprints.of_folder(evaluation, "teacher.evaluation"),
            "weights": fingerprints.of_network(config.model),
            "device": fingerprints.device_kind(config.device),
        },
        writes,
        run,
    )


def train(params: Params) -> Whole:
    """Trains a student, from the store or as a baseline."""
    from stages.train import run as stage
    from stages.train.config import Config

    config = params.typed("train", Config)
    writes = (MODELS / "student", METRICS / "train")
    read = _labels(params, config) if config.reads_store else _fresh(params)
    evaluation = optional(config.evaluation)

    def run(start: Start) -> Report:
        with start.in_turn():
            inputs = stage.Inputs(**read.open(), evaluation=evaluation)
        outputs = stage.Outputs(*writes, start.places("train"))
        return stage.run(config, inputs, outputs, start.progress, start.ranks)

    fingerprint: Json = {
        **read.fingerprint,
        "evaluation": fingerprints.of_folder(evaluation, "train.evaluation"),
        "weights": fingerprints.of_network(config.model),
        "online_teacher": network(config.online_teacher if config.labels == "online" else None),
        "device": fingerprints.device_kind(config.device),
    }
    return Whole(fingerprint, writes, run)


@dataclass(frozen=True, slots=True)
class _Read:
    """What a student learns from: its digests, and the fields of the stage's inputs."""

    fingerprint: dict[str, Json]
    open: Callable[[], dict[str, Any]]


def _labels(params: Params, config: Any) -> _Read:
    calibration = config.calibration
    plan = _view(params, calibration)

    def opened() -> dict[str, Any]:
        digests = {
            name: entries.artifact_digest(plan.layout, name)
            for name in list_artifacts(plan.layout)
            if name in ("soft", f"calibrated/{calibration}")
        }
        return {
            "view": plan.open(),
            "class_names": plan.class_names,
            "store_digests": digests,
            "labels_made_from": lineage_of_labels(plan.layout, calibration)
            if config.labels == "store"
            else lineage_of(plan.layout, "crops"),
        }

    return _Read({"view": plan.meta.digest}, opened)


def _fresh(params: Params) -> _Read:
    layout, folder = layout_of(params), images_folder(params)
    table = images.load(layout)

    def opened() -> dict[str, Any]:
        return {
            "images": table,
            "images_folder": folder,
            "class_names": table.class_names,
            "labels_made_from": lineage_of(layout, "images"),
        }

    return _Read({"images": shown(table)}, opened)


def compare(params: Params) -> Whole:
    """Trains students side by side."""
    from stages.compare import run as stage
    from stages.compare.config import ONLINE, STORE, TRUTH, Config
    from stages.train.config import Config as TrainConfig

    config = params.typed("compare", Config)
    student = params.typed("train", TrainConfig)
    calibrations = [arm for arm in config.arms if arm not in (TRUTH, STORE, ONLINE)]
    plans = {STORE: _view(params, None), **{arm: _view(params, arm) for arm in calibrations}}
    val, test, output = Path(config.val), optional(config.test), METRICS / "compare"
    teacher = MODELS / "teacher"
    own_code.check(teacher, params)

    def run(start: Start) -> Report:
        inputs = stage.Inputs(
            views={arm: plan.open() for arm, plan in plans.items()},
            class_names=plans[STORE].class_names,
            student=student,
            val=val,
            test=test,
            teacher=teacher if teacher.exists() else None,
            online_teacher=student.online_teacher,
            places=lambda part: start.places("compare", part),
        )
        return stage.run(config, inputs, output, start.progress)

    fingerprint: Json = {
        "views": {arm: plan.meta.digest for arm, plan in plans.items()},
        "student": keyed_params(student),
        "weights": fingerprints.of_network(student.model),
        "online_teacher": network(student.online_teacher),
        "device": fingerprints.device_kind(student.device),
        "val": fingerprints.of_folder(val, "compare.val"),
        "test": fingerprints.of_folder(test, "compare.test"),
    }
    return Whole(fingerprint, (output,), run)


def _view(params: Params, calibration: str | None) -> ViewPlan:
    layout, num_shards = layout_of(params), params.store.num_shards
    mapped.tell_of_lost_files()
    return plan_view(layout, num_shards, images_folder(params), calibration)


def linear(params: Params) -> Whole:
    """Trains a classifier on the student's features."""
    from stages.linear import run as stage
    from stages.linear.config import Config

    config = params.typed("linear", Config)
    table = images.load(layout_of(params))
    student, evaluation = MODELS / "student", optional(config.evaluation)
    own_code.check(student, params)
    inputs = stage.Inputs(student, table, images_folder(params), evaluation)
    writes = (MODELS / "linear", METRICS / "linear")

    def run(start: Start) -> Report:
        outputs = stage.Outputs(*writes, start.places("linear"))
        return stage.run(config, inputs, outputs, start.progress)

    fingerprint: Json = {
        "images": shown(table),
        "model": fingerprints.of_saved(student),
        "evaluation": fingerprints.of_folder(evaluation, "linear.evaluation"),
        "device": fingerprints.device_kind(config.device),
    }
    return Whole(fingerprint, writes, run)

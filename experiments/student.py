"""Train one student of the study, and keep what it reached.

Everything but the seconds is the same again for the same parameters, versions and hardware.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import study
from experiments.study import Arm, Study
from ferkd_pipeline import params
from stages.shared import models
from stages.shared.contract import Json, NoProgress, keyed_params
from stages.shared.training.batches import StoredCrops
from stages.shared.training.checks import check_loss, check_temperature
from stages.shared.training.evaluation import EvaluationSet, Evaluator, read_class_folder
from stages.shared.training.learner import Learned, learn
from stages.shared.training.online_teacher import OnlineTeacher
from stages.train.config import Config as TrainConfig
from store.atomic import write_bytes
from store.digest import sha256_json
from store.layout import Layout
from store.view.build import ViewPlan, plan_view

REVISION = 1
"""Raised when the same parameters and labels would give other figures."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A student that can be trained: its inputs are there and fit together."""

    config: TrainConfig
    arm: Arm
    plan: ViewPlan
    world: Path
    key: str
    """Digest of everything that its figures depend on."""


def plan_labels(found: Study, world: str, name: str) -> ViewPlan:
    """Find the labels of an arm.

    Raises:
        DataError: the world was not made, or not all of it.
    """
    arm, folder = found.arms[name], found.world_folder(world)
    layout = Layout.beside(folder / "stores" / arm.labels / "labels")
    raw = study.world_params(found, world, arm.labels)
    calibration = name if arm.steps else None
    images = folder / raw["index"]["images"]
    return plan_view(layout, raw["store"]["num_shards"], images, calibration)


def train_config(found: Study, name: str, seed: int) -> TrainConfig:
    """The section train of one student, checked.

    Raises:
        ParamsError: it names a field or a value that the tool does not take.
    """
    raw = {"train": study.train_section(found, found.arms[name], seed)}
    checked = params.check(Path(f"arms.{name}"), raw)
    return checked.typed("train", TrainConfig)


def prepare(found: Study, world: str, name: str, seed: int) -> Prepared:
    """Check a student's parameters and inputs; trains nothing.

    Raises:
        ParamsError: its parameters are wrong.
        DataError: its world was not made, or not all of it.
    """
    arm, folder = found.arms[name], found.world_folder(world)
    config, plan = train_config(found, name, seed), plan_labels(found, world, name)
    teacher = None
    if arm.learn == "online":
        teacher = models.load_card(folder / "models" / "teacher").digest
    key: dict[str, Json] = {
        "revision": REVISION,
        "digits": study.world_params(found, world, arm.labels)["digits"],
        "view": plan.meta.digest,
        "learn": arm.learn,
        "teacher": teacher,
        "training": keyed_params(config),
    }
    return Prepared(config, arm, plan, folder, sha256_json(key))


def is_done(path: Path, key: str) -> bool:
    """Whether the student of that key was finished."""
    return read(path).get("key") == key


def read(path: Path) -> dict[str, Any]:
    """What was kept of a student; empty where there is none."""
    try:
        kept: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return kept


def train(found: Study, world: str, name: str, seed: int) -> dict[str, Json]:
    """Train and measure one student and publish its figures, whole or not at all.

    Raises:
        FerkdError: see `prepare` and `learn`; or the parameters do not suit the labels.
    """
    ready = prepare(found, world, name, seed)
    view, config = ready.plan.open(), ready.config
    if ready.arm.learn == "stored":
        check_temperature(config, view)
        check_loss(config, view)
    teacher = None
    if ready.arm.learn == "online":
        teacher = OnlineTeacher(models.load_model(ready.world / "models" / "teacher"))
    val, test = (
        read_class_folder(split, ready.world / "data" / "digits" / split, ready.plan.class_names)
        for split in ("val", "test")
    )
    learned = learn(
        config,
        StoredCrops(view, seed, "store" if config.labels == "store" else "truth"),
        evaluation=val,
        progress=NoProgress(),
        label=f"{world}/{name}",
        teacher=teacher,
    )
    kept = {"key": ready.key, **_figures(learned, test)}
    text = json.dumps(kept, indent=1, allow_nan=False) + "\n"
    path = found.student_file(world, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())
    return kept


def _figures(learned: Learned, test: EvaluationSet) -> dict[str, Json]:
    history, module = learned.history, learned.model.module
    assert history.final is not None, "an evaluation set was given"
    device = next(module.parameters()).device
    return {
        "val": history.final.top1,
        "test": Evaluator(test, learned.model.spec)(module, device).top1,
        "curve": [[step, accuracy.top1] for step, accuracy in history.evaluations],
        "seconds_per_step": history.seconds_per_step(),
    }

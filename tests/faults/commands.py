"""Every command that writes, as cases for tests that kill it: what it makes, how it begins anew."""

import importlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ferkd_pipeline import stage_table
from stages.digits.core import load_handwriting
from tests.stages.test_projection import INFER as PROJECTION
from tests.stages.test_projection import write_head
from tests.world import NETWORK, Changes, Project, Tree, write_images, write_teacher

STUDENT: Changes = {
    "model": {**NETWORK, "input_size": 16},
    "evaluation": "val",
    "crops_per_image": 2,
    "batch_size": 8,
    "steps": 3,
    "eval_every": 2,
    "lr": 0.01,
    "checkpoint_minutes": 0,
    "device": "cpu",
}
PROXY: Changes = {
    **{name: STUDENT[name] for name in ("model", "crops_per_image", "batch_size", "lr", "device")},
    "steps": 2,
}
PARAMS: Changes = {
    "digits": {
        **{"num_train": 50, "num_val": 50, "num_test": 50},
        **{"renders_train": 1, "renders_val": 1, "renders_test": 1, "wrong_labels": 0.1},
    },
    "teacher": STUDENT,
    "train": {**STUDENT, "calibration": "ferkd", "num_workers": 0},
    "linear": {**{name: STUDENT[name] for name in STUDENT if name != "model"}, "steps": 2},
    "evaluate": {"sets": {"val": "val"}, "device": "cpu"},
    "compare": {
        **{"arms": ["truth", "ferkd"], "seeds": [0], "val": "val", "test": "val"},
        "timing_rounds": 0,
    },
    "score": {
        "any": {"estimator": "random"},
        "hard": {"estimator": "loss", "proxy": PROXY},
    },
}
ENSEMBLE: Changes = {
    "infer": {
        "teacher": [
            {**NETWORK, "weights": "models/teacher"},
            {**NETWORK, "weights": "models/other", "share": 2},
        ]
    }
}


def forget_trainings() -> None:
    """As though nothing had been trained or measured."""
    for folder in (".ferkd/results", ".ferkd/done", ".ferkd/work", ".ferkd/view"):
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Case:
    """A command whose result is compared byte by byte."""

    name: str
    command: tuple[str, ...]
    makes: tuple[str, ...]
    """Files and folders; all of them are deleted before it begins anew."""
    changes: Changes = field(default_factory=dict)
    """Of `PARAMS` and the tiny project's."""
    before: Callable[[], None] = lambda: None
    """What else is there to be done before it begins anew."""

    @property
    def is_variant(self) -> bool:
        """Whether another case runs nearly the same code."""
        return bool(self.changes)

    def forget(self) -> None:
        """Let the command begin anew."""
        forget_trainings()
        for place in map(Path, self.makes):
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        self.before()

    def made(self, project: Project) -> Tree:
        """What it made; times are no result."""
        found = project.tree(*self.makes)
        files = [Path(name) for name in self.makes if Path(name).is_file()]
        found |= {path.as_posix(): path.read_bytes() for path in files}
        return {
            name: data
            for name, data in found.items()
            if not name.endswith(("timing.json", ".lock"))
        }


def _stage(name: str, *makes: str, what: str = "", **changes: Any) -> Case:
    return Case(f"{name} {what}".strip(), ("stage", name), makes, changes)


def _lay_work() -> None:
    """Something of every kind that gc deletes."""
    for name in ("work/infer", "work/train", "results/train"):
        folder = Path(".ferkd", name, "ab" * 32)
        (folder / "files").mkdir(parents=True)
        for number in range(3):
            (folder / "files" / str(number)).write_bytes(bytes(100))


CASES = [
    _stage("digits", "data/digits"),
    _stage("index", "labels/images", "labels/rejects"),
    _stage("teacher", "models/teacher", "metrics/teacher"),
    _stage("sample", "labels/crops"),
    _stage("infer", "labels/predictions"),
    _stage("infer", "labels/predictions", what="ensemble", **ENSEMBLE),
    _stage("infer", "labels/predictions", what="projection", infer=PROJECTION, calibrate=None),
    _stage("compress", "labels/soft"),
    _stage("compress", "labels/soft", what="full", compress={"kind": "full"}),
    _stage("calibrate", "labels/calibrated"),
    _stage("score", "labels/scores"),
    _stage("train", "models/student", "metrics/train"),
    _stage("linear", "models/linear", "metrics/linear"),
    _stage("evaluate", "metrics/evaluate"),
    _stage("compare", "metrics/compare"),
    Case("report", ("report", "--quiet"), ("metrics/report",)),
    Case("export", ("export", "student.safetensors", "--force"), ("student.safetensors",)),
    Case("store export", ("store", "export", "all.parquet", "--force"), ("all.parquet",)),
    Case(
        "record",
        ("record", "infer"),
        ("labels/predictions/_manifest.json",),
    ),
    Case("gc", ("store", "gc", "--force"), (".ferkd/view", ".ferkd/work"), before=_lay_work),
    Case(
        "init",
        ("init", "mine", "--recipe", "quick", "--images", "images", "--val", "val"),
        ("mine",),
    ),
]
BY_NAME = {case.name: case for case in CASES}


def load_code() -> None:
    """Import what commands import, before children are forked that would each do it."""
    for name in ("engine", "funnel", "kept", "progress", "recording", "report", "whole.prepare"):
        importlib.import_module(f"ferkd_pipeline.{name}")
    for info in stage_table.STAGES:
        importlib.import_module(f"{info.module}.run")
    importlib.import_module("store.inspection.export")
    load_handwriting()  # imports scikit-learn


def make_all(project: Project) -> None:
    """Add to a tiny project what the cases need: other images and teachers, and a student."""
    write_images(Path("val"), num=1, seed=2)
    write_teacher(Path("models/other"), seed=1)
    write_head(Path("models/head"))
    project.write_params(**PARAMS)
    project.run("train", **PARAMS)
    forget_trainings()

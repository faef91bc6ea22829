"""What the study consists of: experiments/params.yaml, read and checked as a whole.

No torch and no pyarrow: names, folders and parameters only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import Field

from ferkd_pipeline import params, yaml_file
from ferkd_pipeline.params import Params
from store.errors import ParamsError

DEFAULT = Path("experiments/params.yaml")

Changes = dict[str, Any]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class World(_Model):
    """A training set and the teacher that labels it."""

    title: str
    """As plots call it."""
    teacher: str
    digits: Changes = {}
    """Changes to the section digits."""


class Arm(_Model):
    """One way to make labels out of the same crops."""

    title: str
    """As tables and plots call it."""
    groups: tuple[str, ...] = Field(min_length=1)
    """Tables of the first world that it stands in."""
    worlds: tuple[str, ...] = ("clean",)
    learn: Literal["stored", "truth", "online"] = "stored"
    """stored labels; the ground truth of the same crops; or a teacher that runs at every step."""
    labels: str = "ms5"
    """Kind of labels; its store also gives truth and online their crops."""
    steps: tuple[Changes, ...] = ()
    """Steps of its calibration; none: labels as the teacher gave them."""
    train: Changes = {}
    """Changes to the section train."""


class Sweep(_Model):
    """A curve: arms by the value that is varied."""

    title: str
    x: str
    lines: dict[str, dict[float, str]]


class Timing(_Model):
    """What is timed, in turns."""

    arms: tuple[str, ...] = ()
    """Of the first world; the first is what the others are divided by."""
    rounds: int = Field(default=12, ge=1)
    steps: int = Field(default=5, ge=1)
    """Steps of each arm in a round."""


class Study(_Model):
    """experiments/params.yaml; see there for what each section is."""

    base: Path
    out: Path
    results: Path
    seeds: tuple[int, ...] = Field(min_length=1)
    baseline: str
    student: Changes = {}
    teachers: dict[str, Changes] = Field(min_length=1)
    worlds: dict[str, World] = Field(min_length=1)
    labels: dict[str, Changes] = Field(min_length=1)
    scores: dict[str, Changes] = {}
    groups: dict[str, str] = {}
    arms: dict[str, Arm] = Field(min_length=1)
    sweeps: dict[str, Sweep] = {}
    timing: Timing = Timing()

    @pydantic.model_validator(mode="after")
    def _check_names(self) -> Self:
        for name, world in self.worlds.items():
            _known(f"worlds.{name}.teacher", world.teacher, self.teachers)
        _known("baseline", self.baseline, self.arms)
        for name, arm in self.arms.items():
            _known(f"arms.{name}.labels", arm.labels, self.labels)
            for place in arm.worlds:
                _known(f"arms.{name}.worlds", place, self.worlds)
            for group in arm.groups:
                _known(f"arms.{name}.groups", group, self.groups)
        for name in self.timing.arms:
            _known("timing.arms", name, self.arms_of(self.first_world))
        for name, sweep in self.sweeps.items():
            for point in (point for line in sweep.lines.values() for point in line.values()):
                _known(f"sweeps.{name}", point, self.arms)
        return self

    @property
    def first_world(self) -> str:
        """The world that groups and sweeps are shown for."""
        return next(iter(self.worlds))

    def arms_of(self, world: str) -> dict[str, Arm]:
        """Arms that are trained in a world, in order."""
        return {name: arm for name, arm in self.arms.items() if world in arm.worlds}

    def cells(self) -> list[tuple[str, str, int]]:
        """Every (world, arm, seed); seeds outermost: an interrupted run holds whole comparisons."""
        return [
            (world, arm, seed)
            for seed in self.seeds
            for world in self.worlds
            for arm in self.arms_of(world)
        ]

    def kinds_of(self, world: str) -> list[str]:
        """Kinds of labels that a world needs, the baseline's first."""
        arms = self.arms_of(world).values()
        wanted = [self.arms[self.baseline].labels, *(arm.labels for arm in arms)]
        steps = [step for arm in arms for step in arm.steps]
        wanted += [name for name in self.labels if any(_reads(step, name) for step in steps)]
        return list(dict.fromkeys(wanted))

    def scores_of(self, world: str) -> dict[str, Changes]:
        """Scores that a world's arms select by."""
        steps = [step for arm in self.arms_of(world).values() for step in arm.steps]
        names = {step["scores"] for step in steps if "scores" in step}
        for name in sorted(names):
            _known("arms: scores", name, self.scores)
        return {name: value for name, value in self.scores.items() if name in names}

    def teacher_folder(self, name: str) -> Path:
        """Project in which a teacher is trained."""
        return self.out / "teachers" / name

    def world_folder(self, name: str) -> Path:
        """Project of a world."""
        return self.out / "worlds" / name

    def student_file(self, world: str, arm: str, seed: int) -> Path:
        """What is kept of a finished student."""
        return self.out / "students" / world / arm / f"seed-{seed}.json"


def load(path: Path = DEFAULT) -> Study:
    """Read the study's parameters.

    Raises:
        ParamsError: one line for each thing that is wrong.
    """
    raw = yaml_file.read_mapping(path)
    try:
        return Study.model_validate(raw)
    except pydantic.ValidationError as error:
        found = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
        lines = [": ".join([str(path), *filter(None, each)]) for each in found]
        raise ParamsError("\n".join(lines)) from None


def teacher_params(study: Study, name: str) -> Changes:
    """The params.yaml of a teacher's project."""
    raw = yaml_file.read_mapping(study.base)
    kept = {key: raw[key] for key in ("store", "digits", "index", "teacher")}
    return kept | {"digits": raw["digits"] | study.teachers[name]}


def world_params(study: Study, world: str, kind: str) -> Changes:
    """The params.yaml of one kind of labels of a world; paths are relative to its project."""
    raw = yaml_file.read_mapping(study.base)
    compress = dict(study.labels[kind])
    split = compress.pop("images", "train")
    own = {
        name: list(arm.steps)
        for name, arm in study.arms_of(world).items()
        if arm.steps and arm.labels == kind
    }
    kept = {key: raw[key] for key in ("store", "digits", "index", "sample", "infer", "compress")}
    found = kept | {
        "store": raw["store"] | {"root": f"stores/{kind}/labels"},
        "digits": raw["digits"] | study.worlds[world].digits,
        "index": raw["index"] | {"images": f"data/digits/{split}"},
        "compress": {"precision": raw["compress"]["precision"], **compress},
    }
    scores = study.scores_of(world) if kind == study.arms[study.baseline].labels else {}
    if scores:
        found["score"] = {name: _with_proxy(raw, score) for name, score in scores.items()}
    return found | ({"calibrate": own} if own else {})


def _with_proxy(raw: Changes, score: Changes) -> Changes:
    """Scores that are judged by a network get the student's, trained as students are."""
    if score["estimator"] == "random":
        return score
    unused = ("evaluation", "calibration", "eval_every", "labels")
    training = {key: value for key, value in raw["train"].items() if key not in unused}
    crops = {key: raw["sample"][key] for key in ("scale", "flip")}
    return {**score, "proxy": {**training, **crops, **score.get("proxy", {})}}


def train_section(study: Study, arm: Arm, seed: int) -> Changes:
    """The section train of one student; paths are the world's and left out."""
    raw: Changes = yaml_file.read_mapping(study.base)["train"]
    changes = {**study.student, **arm.train, "seed": seed, "evaluation": None, "calibration": None}
    return {**raw, **changes, "labels": "truth" if arm.learn == "truth" else "store"}


def checked(raw: Mapping[str, Any], path: Path) -> Params:
    """Check a params.yaml that was made here; `path` is only named.

    Raises:
        ParamsError: it is not one that the tool takes.
    """
    return params.check(path, raw)


def _reads(step: Changes, kind: str) -> bool:
    """Whether a step takes its thresholds from the store of a kind."""
    return step.get("validation") == f"stores/{kind}/labels"


def _known(key: str, name: str, names: Mapping[str, object]) -> None:
    if name not in names:
        raise ValueError(f"{key} names {name!r}, allowed: {', '.join(names)}")

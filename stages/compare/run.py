"""Train every arm with every seed, measure all, and write what it shows."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.compare import timing
from stages.compare.config import ONLINE, STORE, TRUTH, Config
from stages.compare.core import Summary, paired, percent, with_error
from stages.shared import models
from stages.shared.contract import Json, Progress, Report
from stages.shared.model_config import ModelConfig
from stages.shared.training.batches import CropView, Labels, StoredCrops
from stages.shared.training.checks import check_classes, check_loss, check_mix, check_temperature
from stages.shared.training.config import LearnerConfig
from stages.shared.training.evaluation import EvaluationSet, Evaluator, read_class_folder
from stages.shared.training.fit import Places
from stages.shared.training.history import Accuracy
from stages.shared.training.learner import Learned, learn, write_json
from stages.shared.training.online_teacher import OnlineTeacher
from store.atomic import replace_folder
from store.errors import ParamsError

REVISION = 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the students learn from and are measured on."""

    views: Mapping[str, CropView]
    """A `TrainingView` by arm: ``store`` (which serves ``truth`` too) and one for each
    calibration among the arms."""
    class_names: Sequence[str]
    """Name of class c at place c."""
    student: LearnerConfig
    """The section train: network, optimizer, steps; its seed is replaced by `Config.seeds`."""
    val: Path
    """`Config.val`."""
    test: Path | None = None
    """`Config.test`."""
    teacher: Path | None = None
    """Model folder of the teacher, for the time of a step with an online teacher."""
    online_teacher: ModelConfig | None = None
    """Of the arm ``online``."""
    places: Callable[[str], Places] = lambda _: Places()
    """Where a student's training lies while it is unfinished, by the student's name."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One finished student; the network itself is not kept."""

    arm: str
    seed: int
    curve: tuple[tuple[int, Accuracy], ...]
    test: Accuracy | None


def run(config: Config, inputs: Inputs, output: Path, progress: Progress) -> Report:
    """Write ``compare.json``, ``curves.csv``, ``curves_mean.csv`` and ``timing.json``.

    ``output`` is a folder. ``timing.json`` differs from run to run; the other three do not.

    Raises:
        ParamsError: an arm has no view, or the settings do not suit an arm.
        DataError: an image is missing, damaged or changed, or a folder does not fit.
        ShardError: training diverged.
    """
    _check_arms(config, inputs)
    val = read_class_folder("val", inputs.val, inputs.class_names)
    test = None
    if inputs.test is not None:
        test = read_class_folder("test", inputs.test, inputs.class_names)
    # Seeds outside, arms inside: an interrupted reader of the log sees whole comparisons.
    runs = [
        _train(arm, seed, inputs, val, test, progress)
        for seed in config.seeds
        for arm in config.arms
    ]
    seconds: dict[str, list[float]] = {}
    if config.timing_rounds:
        seconds = timing.measure(
            inputs.student,
            _view(inputs, STORE),
            inputs.teacher,
            config.timing_rounds,
            config.timing_steps,
            progress,
        )
    results = _results(config, inputs, runs)
    with replace_folder(output) as partial:
        write_json(partial / "compare.json", results)
        _write_curves(partial / "curves.csv", runs)
        _write_mean_curves(partial / "curves_mean.csv", config, runs)
        write_json(partial / "timing.json", timing.summarise(seconds, config.timing_steps))
    lines = _lines(config, runs)
    return Report(results, (*lines, timing.line(seconds)) if seconds else lines)


def _check_arms(config: Config, inputs: Inputs) -> None:
    if inputs.student.loss == "projection":
        raise ParamsError(
            "train.loss is projection: such students have no classes that compare could measure; "
            "leave the section compare out, and see stage linear"
        )
    for arm in config.arms:
        view = _view(inputs, arm)
        check_mix(inputs.student, view)
        if arm == ONLINE and inputs.online_teacher is None:
            raise ParamsError(
                "compare.arms has 'online', but train.online_teacher is not given; name the "
                "teacher there"
            )
        if arm in (TRUTH, ONLINE):
            check_classes("compare.arms", arm, view)
        else:
            check_temperature(inputs.student, view)
            check_loss(inputs.student, view)
    if config.timing_rounds:
        _view(inputs, STORE)


def _view(inputs: Inputs, arm: str) -> CropView:
    name = STORE if arm in (TRUTH, ONLINE) else arm
    if name not in inputs.views:
        raise ParamsError(
            f"compare.arms has {arm!r}, which is no calibration of this store; allowed: "
            f"{', '.join(dict.fromkeys((TRUTH, STORE, ONLINE, *inputs.views)))}"
        )
    return inputs.views[name]


def _train(
    arm: str,
    seed: int,
    inputs: Inputs,
    val: EvaluationSet,
    test: EvaluationSet | None,
    progress: Progress,
) -> _Run:
    changes: dict[str, object] = {"seed": seed}
    if arm == TRUTH:
        # One-hot labels have no temperature, and no logarithm that mse could take.
        changes |= {"temperature": 1.0, "loss": "cross_entropy"}
    student = inputs.student.model_copy(update=changes)
    view = _view(inputs, arm)
    labels: Labels = "truth" if arm in (TRUTH, ONLINE) else "store"
    learned = learn(
        student,
        StoredCrops(view, seed, labels),
        evaluation=val,
        progress=progress,
        label=f"{arm}, seed {seed}",
        teacher=_online_teacher(inputs, view.num_classes) if arm == ONLINE else None,
        places=inputs.places(f"{arm}-{seed}"),
    )
    return _Run(arm, seed, tuple(learned.history.evaluations), _tested(learned, test))


def _online_teacher(inputs: Inputs, num_classes: int) -> OnlineTeacher:
    assert inputs.online_teacher is not None
    return OnlineTeacher(models.build(inputs.online_teacher, num_classes, seed=0))


def _tested(learned: Learned, test: EvaluationSet | None) -> Accuracy | None:
    if test is None:
        return None
    module = learned.model.module
    return Evaluator(test, learned.model.spec)(module, next(module.parameters()).device)


def _final(runs: Sequence[_Run], arm: str, set_name: str) -> list[float]:
    """Return the finished students' top-1 by seed; empty where there is no such set."""
    accuracies = [
        run.test if set_name == "test" else run.curve[-1][1] for run in runs if run.arm == arm
    ]
    return [accuracy.top1 for accuracy in accuracies if accuracy is not None]


def _finals(config: Config, runs: Sequence[_Run]) -> dict[str, dict[str, list[float]]]:
    """Return top-1 by seed of each arm, by set: the sets that were measured."""
    sets = {name: {arm: _final(runs, arm, name) for arm in config.arms} for name in ("val", "test")}
    return {name: arms for name, arms in sets.items() if all(arms.values())}


def _results(config: Config, inputs: Inputs, runs: Sequence[_Run]) -> dict[str, Json]:
    student = inputs.student
    num_steps = student.num_steps(_view(inputs, config.arms[0]).num_images)
    finals = _finals(config, runs)
    arms: dict[str, Json] = {
        arm: {name: Summary(tuple(values[arm])).spread() for name, values in finals.items()}
        for arm in config.arms
    }
    pairs = {name: paired(values) for name, values in finals.items()}
    differences: dict[str, Json] = {
        f"{arm} - {baseline}": {name: pairs[name][arm, baseline].difference() for name in finals}
        for arm, baseline in pairs["val"]
    }
    return {
        "student": student.model.name,
        "steps": num_steps,
        "num_crops": num_steps * student.batch_size,
        "seeds": list(config.seeds),
        "top1": arms,
        "paired": differences,
    }


def _write_curves(path: Path, runs: Sequence[_Run]) -> None:
    rows = [
        [run.arm, run.seed, step, f"{accuracy.top1:.6f}"]
        for run in runs
        for step, accuracy in run.curve
    ]
    _write_csv(path, ["arm", "seed", "step", "top1"], rows)


def _write_mean_curves(path: Path, config: Config, runs: Sequence[_Run]) -> None:
    rows = []
    for arm in config.arms:
        curves = [run.curve for run in runs if run.arm == arm]
        for points in zip(*curves, strict=True):
            summary = Summary(tuple(accuracy.top1 for _, accuracy in points))
            deviation = "" if summary.deviation is None else f"{summary.deviation:.6f}"
            step = points[0][0]
            rows.append([arm, step, f"{summary.mean:.6f}", deviation, len(points)])
    _write_csv(path, ["arm", "step", "top1_mean", "top1_std", "n"], rows)


def _write_csv(path: Path, header: list[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _lines(config: Config, runs: Sequence[_Run]) -> tuple[str, ...]:
    finals = _finals(config, runs)
    set_name = "test" if "test" in finals else "val"
    values = finals[set_name]
    num_seeds = f"{len(config.seeds)} seed{'s' if len(config.seeds) > 1 else ''}"
    steps = [step for step, _ in runs[0].curve]
    middle = steps[(len(steps) - 1) // 2]
    lines = []
    for arm in config.arms:
        final = Summary(tuple(values[arm]))
        line = (
            f"{arm}: top-1 {with_error(final.mean, final.deviation)} % on {set_name} ({num_seeds})"
        )
        if len(steps) > 1:
            halfway = Summary(
                tuple(
                    accuracy.top1
                    for run in runs
                    if run.arm == arm
                    for step, accuracy in run.curve
                    if step == middle
                )
            )
            line += f"; at step {middle:,} {percent(halfway.mean)} % on val"
        lines.append(line)
    for (arm, baseline), difference in paired(values).items():
        change = with_error(difference.mean, difference.standard_error, signed=True)
        lines.append(f"{arm} - {baseline}, seed by seed: {change} points on {set_name}")
    return tuple(lines)

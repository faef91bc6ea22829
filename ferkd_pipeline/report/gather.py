"""All that a report shows, gathered from metrics/ and the label store."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferkd_pipeline.report import labels, measured

ARMS = {"truth": "ground truth", "store": "stored labels"}


@dataclass(frozen=True, slots=True)
class Results:
    """What is there; None or empty for a stage that has not run."""

    comparison: measured.Comparison | None
    timing: measured.Timing | None
    curves: Mapping[str, measured.Curve]
    teacher: measured.Trained | None
    student: measured.Trained | None
    linear: measured.Trained | None
    """Of a classifier on the student's features."""
    evaluation: Mapping[str, measured.Accuracy]
    artifacts: tuple[labels.Artifact, ...]
    max_prob: NDArray[np.int64]
    """(labels.NUM_BINS,) crops by the teacher's maximum probability."""
    actions: Mapping[str, Mapping[str, int]]
    """Crops by action, of each calibration."""

    @property
    def is_empty(self) -> bool:
        """Whether no stage has run."""
        return not (self.comparison or self.teacher or self.student or self.artifacts)

    def summary(self) -> dict[str, float]:
        """Return the few numbers that matter: top-1 as a share, by whose it is, and time."""
        found = {f"student.{name}": accuracy.top1 for name, accuracy in self.evaluation.items()}
        if self.teacher and self.teacher.top1 is not None:
            found["teacher"] = self.teacher.top1
        if self.linear and self.linear.top1 is not None:
            found["linear"] = self.linear.top1
        if self.comparison:
            for arm, sets in self.comparison.top1.items():
                name, spread = list(sets.items())[-1]
                found[f"from {arm}.{name}"] = spread.mean
        if self.timing and "store" in self.timing.ratio_to_truth:
            found["step time, store / truth"] = self.timing.ratio_to_truth["store"]
        return {name: round(value, 4) for name, value in found.items()}


def gather(metrics: Path, root: Path, stages: Collection[str] | None = None) -> Results:
    """Read what the stages left.

    Args:
        metrics: folder with a folder for each stage that measures something.
        root: folder of the label store.
        stages: those of the project; what others left is of an earlier one. None: all.

    Raises:
        DataError: a file is damaged.
    """

    def read(stage: str, name: str, kind: type[measured.Found]) -> measured.Found | None:
        is_asked = stages is None or stage in stages
        return measured.read(metrics / stage / name, kind) if is_asked else None

    evaluation = read("evaluate", "summary.json", measured.Evaluation)
    comparison = read("compare", "compare.json", measured.Comparison)
    calibrations = labels.calibrations(root) if stages is None or "calibrate" in stages else ()
    curves = metrics / "compare/curves_mean.csv"
    return Results(
        comparison=comparison,
        timing=read("compare", "timing.json", measured.Timing),
        curves=measured.read_curves(curves) if comparison else {},
        teacher=read("teacher", "summary.json", measured.Trained),
        student=read("train", "summary.json", measured.Trained),
        linear=read("linear", "summary.json", measured.Trained),
        evaluation=evaluation.root if evaluation else {},
        artifacts=tuple(labels.artifacts(root, calibrations)),
        max_prob=labels.max_prob_histogram(root),
        actions={name: labels.actions(root, name) for name in calibrations},
    )


def arm_name(arm: str) -> str:
    """Return what people call an arm of a comparison; a calibration is called by its own name."""
    return ARMS.get(arm, f"stored labels, {arm}")

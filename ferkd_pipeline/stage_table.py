"""The stages, in the order of the data's way: the one place that lists them.

Nothing heavy is imported here. A stage's package is found by its `module`, its parameters are
`<module>.config.Config`. `dvc.yaml` says the same, and a test holds the two together.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageInfo:
    """What the application knows about a stage without importing it."""

    name: str
    """Name on the command line, in params.yaml and in dvc.yaml."""
    summary: str
    """One line for people."""
    module: str
    """Package that holds config, core and run."""
    sharded: bool
    """Whether it works shard by shard, so that `--shard` applies."""
    sections: tuple[str, ...]
    """Sections of params.yaml, or keys in them, that its result depends on."""
    reads: tuple[str, ...]
    """Outputs of other stages that it reads, as paths from the folder of dvc.yaml. Left out: those
    whose every change shows in one that is named. Labels record the digests of their images and
    crops, so labels/soft stands for labels/images and labels/crops too."""
    writes: tuple[str, ...]
    """What it writes, as paths from the folder of dvc.yaml."""
    optional: bool = False
    """Whether dvc.yaml has it only where params.yaml has a section of its name."""


STAGES: tuple[StageInfo, ...] = (
    StageInfo(
        name="digits",
        summary="make the embedded data set: handwritten digits on cluttered canvases",
        module="stages.digits",
        sharded=False,
        sections=("digits",),
        reads=(),
        writes=("data/digits",),
    ),
    StageInfo(
        name="index",
        summary="list every training image and decode it once; unusable files become rejects",
        module="stages.index",
        sharded=False,
        sections=("index",),
        reads=(),
        writes=("labels/images", "labels/rejects"),
    ),
    StageInfo(
        name="teacher",
        summary="train a teacher on the ground truth of the training images",
        module="stages.teacher",
        sharded=False,
        sections=("teacher",),
        reads=("labels/images",),
        writes=(
            "models/teacher",
            "metrics/teacher/summary.json",
            "metrics/teacher/curve.csv",
        ),
    ),
    StageInfo(
        name="sample",
        summary="draw the boxes and flips of M crops an image, from a seed",
        module="stages.sample",
        sharded=True,
        sections=("store", "sample"),
        reads=("labels/images",),
        writes=("labels/crops",),
    ),
    StageInfo(
        name="infer",
        summary="ask the teacher about every crop, once; the one stage that pays its forwards",
        module="stages.infer",
        sharded=True,
        sections=("store", "infer"),
        reads=("labels/images", "labels/crops", "models/teacher"),
        writes=("labels/predictions",),
    ),
    StageInfo(
        name="compress",
        summary="turn predictions into small soft labels: hard, marginal, full",
        module="stages.compress",
        sharded=True,
        sections=("store", "compress"),
        reads=("labels/predictions",),
        writes=("labels/soft",),
    ),
    StageInfo(
        name="score",
        summary="score images by what a proxy student shows: which ones deserve the teacher",
        module="stages.score",
        sharded=False,
        sections=("score",),
        reads=("labels/images",),
        writes=("labels/scores",),
        optional=True,
    ),
    StageInfo(
        name="calibrate",
        summary="decide per crop: keep, drop, soften or revise the label",
        module="stages.calibrate",
        sharded=True,
        sections=("store", "calibrate"),
        reads=("labels/soft", "labels/scores"),
        writes=("labels/calibrated",),
    ),
    StageInfo(
        name="train",
        summary="train a student from the stored labels; no teacher runs",
        module="stages.train",
        sharded=False,
        sections=("train",),
        reads=("labels/soft", "labels/calibrated"),
        writes=(
            "models/student",
            "metrics/train/summary.json",
            "metrics/train/curve.csv",
        ),
    ),
    StageInfo(
        name="evaluate",
        summary="measure top-1 and top-5 of the student on images it never saw",
        module="stages.evaluate",
        sharded=False,
        sections=("evaluate",),
        reads=("models/student",),
        writes=("metrics/evaluate/summary.json", "metrics/evaluate/classes.csv"),
    ),
    StageInfo(
        name="linear",
        summary="measure the student's features: train a new classifier on them, frozen",
        module="stages.linear",
        sharded=False,
        sections=("linear",),
        reads=("labels/images", "models/student"),
        writes=(
            "models/linear",
            "metrics/linear/summary.json",
            "metrics/linear/curve.csv",
        ),
        optional=True,
    ),
    StageInfo(
        name="compare",
        summary="train students from ground truth and from the store, same steps, several seeds",
        module="stages.compare",
        sharded=False,
        sections=("train", "compare"),
        reads=("labels/soft", "labels/calibrated"),
        writes=(
            "metrics/compare/compare.json",
            "metrics/compare/timing.json",
            "metrics/compare/curves.csv",
            "metrics/compare/curves_mean.csv",
        ),
    ),
)

STAGE_NAMES: tuple[str, ...] = tuple(stage.name for stage in STAGES)


def find(name: str) -> StageInfo:
    """Return the stage of that name, which must be one of `STAGE_NAMES`."""
    return next(stage for stage in STAGES if stage.name == name)

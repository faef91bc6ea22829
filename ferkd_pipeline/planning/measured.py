"""A few images through every stage, timed and weighed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ferkd_pipeline.params import Params
from ferkd_pipeline.planning.small_store import PartSize, SmallStore, part_size, small_store
from ferkd_pipeline.whole.common import images_folder, layout_of
from stages.infer import run as infer
from stages.infer.config import Config as InferConfig
from stages.infer.examine.sampling import spread
from stages.infer.inputs import Inputs
from stages.infer.measure import Measured, measure
from stages.infer.probe import Scale, scale
from stages.sample.config import Config as SampleConfig
from stages.shared.contract import NoProgress, Progress, Source, keyed_params
from stages.train.config import Config as TrainConfig
from stages.train.step_speed import StepSpeed, step_speed
from store import images, lock, upstream
from store.errors import FerkdError
from store.images import ImageTable
from store.layout import calibrated, part_name
from store.parts import PartWriter
from store.view.build import plan_view
from store.view.fill import build

_MOST_IMAGES = 1024
"""Images whose crops are drawn for the measurement."""
_TRAIN_SHARE = 0.15
_STEM = part_name(0)


@dataclass(frozen=True, slots=True)
class Weighed:
    """One stage's work on a few images."""

    stage: str
    name: str | None
    """Of a calibration."""
    seconds: float
    num_crops: int
    num_images: int
    size: PartSize
    place: str = "labels"
    """``labels``, or ``view`` for the training view."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything that was measured."""

    table: ImageTable
    """All images of the store."""
    scale: Scale
    infer: Measured
    stages: tuple[Weighed, ...]
    """Without infer's time, which `infer` has."""
    step: StepSpeed | None
    left_out: tuple[str, ...]
    """What could not be measured, and why."""


class _Notes:
    """Progress that passes on what is said, and no bars of the small stages."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, label: str, total: int, unit: str) -> None:
        """Ignore."""

    def advance(self, amount: int = 1) -> None:
        """Ignore."""

    def note(self, message: str) -> None:
        """Pass on."""
        self._progress.note(message)


def measure_all(
    values: Params, seconds: float, progress: Progress, *, with_train: bool = True
) -> Sample:
    """Measure the stages of params.yaml on some of its images, for about ``seconds``.

    Raises:
        ParamsError: a parameter is wrong, or a section is missing.
        DataError: the stage index has not run, weights are missing, or they do not fit.
    """
    config, sampled = values.typed("infer", InferConfig), values.typed("sample", SampleConfig)
    table = images.load(layout_of(values))
    rows = spread(table.class_ids, _MOST_IMAGES)
    steps = with_train and "train" in values.sections
    share = seconds * (1 - (_TRAIN_SHARE if steps else 0)) / 2
    notes = _Notes(progress)
    progress.start("measure", 3 if steps else 2, "parts")
    with small_store(values, table, rows) as small:
        drawn = _run(small, "sample", "crops", sampled.num_crops, notes)
        inputs = _open(small, config)
        found = scale(config, inputs, share / 4)
        smaller = sampled.model_copy(update={"num_crops": found.num_crops})
        quicker = config.model_copy(update={"batch_size": found.batch_size})
    with small_store(values, table, rows, sample=smaller, infer=quicker) as small:
        small.run("sample", notes)
        measured = measure(quicker, _placed(inputs, small), share)
    progress.advance()
    num = max(1, min(len(rows), round(measured.crops_per_second * share / found.num_crops)))
    rows = rows[spread(table.class_ids[rows], num)]
    with small_store(values, table, rows, sample=smaller, infer=quicker) as small:
        small.run("sample", notes)
        stages, left_out = _later(small, quicker, _placed(inputs, small), notes)
    progress.advance()
    step = None
    if steps:
        step = _step(values, inputs, seconds * _TRAIN_SHARE, left_out)
        progress.advance()
    return Sample(table, found, measured, (drawn, *stages), step, tuple(left_out))


def _open(small: SmallStore, config: InferConfig) -> Inputs:
    source = Source(small.layout, 1, images_folder(small.params))
    return infer.open_inputs(config, source)(0)


def _placed(inputs: Inputs, small: SmallStore) -> Inputs:
    """The same teachers, on another small store: they are built and sent to the device once."""
    crops = upstream.require(small.layout, "crops", _STEM, "sample")
    kept = replace(inputs.kept, num_crops=int(crops.attribute("num_crops")))
    everyone = None if inputs.everyone is None else small.images
    return replace(
        inputs, layout=small.layout, images=small.images, everyone=everyone, crops=crops, kept=kept
    )


def _later(
    small: SmallStore, config: InferConfig, inputs: Inputs, notes: Progress
) -> tuple[list[Weighed], list[str]]:
    """Label, compress, calibrate, and build the view."""
    num_crops = inputs.kept.num_crops
    lineage = {
        "revision": infer.REVISION,
        "params": keyed_params(config),
        "inputs": inputs.lineage(),
    }
    writer = PartWriter(small.layout, infer.ARTIFACT, _STEM, "infer", "plan", lineage)
    began = time.perf_counter()
    with lock.hold(small.layout.lock(infer.ARTIFACT, _STEM)):
        infer.run(config, inputs, writer, notes)
    taken = time.perf_counter() - began
    found = [_weigh(small, "infer", infer.ARTIFACT, num_crops, taken)]
    left_out: list[str] = []

    def attempt(stage: str, run: Callable[[], list[Weighed]]) -> None:
        if stage not in small.params.sections:
            return
        try:
            found.extend(run())
        except FerkdError as error:
            left_out.append(f"{stage}: {error}")

    attempt("compress", lambda: [_run(small, "compress", "soft", num_crops, notes)])
    if "compress" in small.params.sections and not left_out:
        attempt("calibrate", lambda: _calibrate(small, num_crops, notes))
        attempt("train", lambda: [_view(small, num_crops)])
    return found, left_out


def _calibrate(small: SmallStore, num_crops: int, notes: Progress) -> list[Weighed]:
    """Each calibration by itself: one that needs scores must not hide what the others take."""
    config: Any = small.params.section("calibrate")
    return [
        replace(
            _run(_only(small, name), "calibrate", calibrated(name), num_crops, notes), name=name
        )
        for name in config.root
    ]


def _only(small: SmallStore, name: str) -> SmallStore:
    """The store with one calibration alone."""
    config: Any = small.params.section("calibrate")
    sections = {**small.params.sections, "calibrate": type(config)({name: config.root[name]})}
    return replace(small, params=replace(small.params, sections=sections))


def _view(small: SmallStore, num_crops: int) -> Weighed:
    """The view that training opens; built here and not in the cache."""
    config = small.params.typed("train", TrainConfig)
    if config.calibration is not None:
        _only(small, config.calibration).run("calibrate", NoProgress())
    plan = plan_view(small.layout, 1, images_folder(small.params), config.calibration)
    folder = small.layout.root.parent / "view"
    began = time.perf_counter()
    build(small.layout, folder, images.load(small.layout), plan.parts, plan.meta)
    taken = time.perf_counter() - began
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    fixed = sum(size for name, size in sizes.items() if name.endswith("_values.npy"))
    size = PartSize(sum(sizes.values()) - fixed, fixed)
    num_images = len(small.images)
    return Weighed("view", None, taken, num_images * num_crops, num_images, size, "view")


def _run(small: SmallStore, stage: str, artifact: str, num_crops: int, notes: Progress) -> Weighed:
    began = time.perf_counter()
    small.run(stage, notes)
    return _weigh(small, stage, artifact, num_crops, time.perf_counter() - began)


def _weigh(small: SmallStore, stage: str, artifact: str, num_crops: int, seconds: float) -> Weighed:
    num_images = len(small.images)
    size = part_size(small.layout.folder(artifact))
    return Weighed(stage, None, seconds, num_images * num_crops, num_images, size)


def _step(values: Params, inputs: Inputs, seconds: float, left_out: list[str]) -> StepSpeed | None:
    config = values.typed("train", TrainConfig)
    num_classes = inputs.kept.num_outputs
    try:
        return step_speed(config, num_classes, seconds)
    except FerkdError as error:
        left_out.append(f"train: {error}")
        return None

"""Train a student and publish it as a model folder: from the store's view, or a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.shared import models
from stages.shared.contract import Json, Progress, Report
from stages.shared.fresh_crops import fresh_crops
from stages.shared.training.batches import CropSource, CropView, Labels, StoredCrops
from stages.shared.training.checks import check_classes, check_loss, check_mix, check_temperature
from stages.shared.training.evaluation import EvaluationSet, read_class_folder
from stages.shared.training.learner import Learned, learn, save, sentence, waited, write_metrics
from stages.shared.training.learner import Outputs as Outputs
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.ranks import Ranks
from stages.train.config import Config
from store.errors import ParamsError
from store.images import ImageTable

REVISION = 2


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the student learns from."""

    class_names: Sequence[str]
    """Name of class c at place c."""
    view: CropView | None = None
    """A `store.view.reader.TrainingView`, of the calibration that `Config.calibration` names."""
    images: ImageTable | None = None
    """With `Config.crops`: the training images, instead of a view."""
    images_folder: Path = Path()
    """Folder that the paths of ``images`` are relative to."""
    evaluation: Path | None = None
    """Folder of class folders to measure on; `Config.evaluation`."""
    store_digests: Mapping[str, str] = field(default_factory=dict)
    """Digests of the labels and the calibration that it learns from, by name, for the metrics:
    where these changed, the metrics differ even if the student is as good."""
    labels_made_from: Json = None
    """The lineage of the labels, for the student's card."""


def run(
    config: Config,
    inputs: Inputs,
    output: Outputs,
    progress: Progress,
    ranks: Ranks | None = None,
) -> Report:
    """Train, measure and publish a student; of several ranks, the first one publishes.

    Raises:
        ParamsError: the network, optimizer, device, precision, temperature or loss cannot be had.
        DataError: an image is missing, damaged or changed, the evaluation folder does not fit, or
            a checkpoint is of another training.
        ShardError: training diverged.
        RetryError: an image could not be read this time, or a process that reads died.
    """
    source = _source(config, inputs)
    teacher = _online_teacher(config, source.num_classes)
    class_names = _outputs(inputs)
    learned = learn(
        config,
        source,
        evaluation=_evaluation(config, inputs),
        progress=progress,
        label="student",
        teacher=teacher,
        ranks=ranks,
        places=output.places,
        tells=True,
    )
    if ranks is not None and not ranks.is_first:
        return Report()
    numbers = learned.history.numbers() | {"num_parameters": learned.num_parameters}
    numbers["store"] = {**inputs.store_digests}
    write_metrics(output.metrics, numbers, learned.history)
    _save(output.model, config, inputs, learned, class_names, teacher)
    name = None if inputs.evaluation is None else inputs.evaluation.name
    return Report(numbers, (sentence("student", config, learned, name), *waited(learned)))


def _source(config: Config, inputs: Inputs) -> CropSource:
    if config.crops is not None:
        assert inputs.images is not None
        return fresh_crops(config.crops, config, inputs.images, inputs.images_folder)
    assert inputs.view is not None
    check_mix(config, inputs.view)
    if config.labels == "store":
        check_temperature(config, inputs.view)
        check_loss(config, inputs.view)
    else:
        check_classes("train.labels", config.labels, inputs.view)
    labels: Labels = "store" if config.labels == "store" else "truth"
    return StoredCrops(inputs.view, config.seed, labels)


def _outputs(inputs: Inputs) -> Sequence[str]:
    """Names of the network's outputs: the classes, but where labels are a teacher's projections."""
    view = inputs.view
    if view is None or view.meta.label.kind != "logits":
        return inputs.class_names
    return tuple(f"output_{number}" for number in range(view.num_classes))


def _evaluation(config: Config, inputs: Inputs) -> EvaluationSet | None:
    folder = inputs.evaluation
    if folder is None:
        return None
    if config.loss == "projection":
        raise ParamsError(
            "train.evaluation is given, but a student of projections (loss projection) has no "
            "classes to be measured by; leave it out, and see stage linear"
        )
    return read_class_folder(folder.name, folder, inputs.class_names)


def _online_teacher(config: Config, num_classes: int) -> OnlineTeacher | None:
    if config.labels != "online" or config.online_teacher is None:
        return None  # with stored labels it is there for compare's arm alone
    return OnlineTeacher(models.build(config.online_teacher, num_classes, seed=config.seed))


def _save(
    folder: Path,
    config: Config,
    inputs: Inputs,
    learned: Learned,
    class_names: Sequence[str],
    teacher: OnlineTeacher | None,
) -> None:
    meta = None if inputs.view is None else inputs.view.meta
    taught = {} if teacher is None else {"online_teacher": _described(config, teacher)}
    save(
        folder,
        config,
        learned,
        class_names,
        stage="train",
        revision=REVISION,
        labels=config.labels,
        calibration=None if meta is None else meta.calibration,
        view=None if meta is None else meta.digest,
        labels_made_from=inputs.labels_made_from,
        **taught,
    )


def _described(config: Config, teacher: OnlineTeacher) -> dict[str, Json]:
    """As predictions describe theirs."""
    assert config.online_teacher is not None
    return {
        "name": config.online_teacher.name,
        "model_kwargs": config.online_teacher.model_kwargs,
        "weights": teacher.model.digest,
        "pixels": teacher.model.spec.to_json(),
    }

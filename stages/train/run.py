"""Train a student from the store's view and publish it as a model folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.shared.contract import Progress, Report
from stages.shared.training.batches import CropView, StoredCrops
from stages.shared.training.evaluation import read_class_folder
from stages.shared.training.learner import (
    check_loss,
    check_temperature,
    learn,
    save,
    sentence,
    write_metrics,
)
from stages.train.config import Config

REVISION = 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the student learns from."""

    view: CropView
    """A `store.view.reader.TrainingView`, of the calibration that `Config.calibration` names."""
    class_names: Sequence[str]
    """Name of class c at place c."""
    evaluation: Path | None = None
    """Folder of class folders to measure on; `Config.evaluation`."""
    store_digests: Mapping[str, str] = field(default_factory=dict)
    """Digests of the labels and the calibration that it learns from, by name, for the metrics:
    where these changed, the metrics differ even if the student is as good."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the results go; each appears when it is complete."""

    model: Path
    """Model folder, such as ``models/student``."""
    metrics: Path
    """Folder for ``summary.json`` and ``curve.csv``, such as ``metrics/train``."""


def run(config: Config, inputs: Inputs, output: Outputs, progress: Progress) -> Report:
    """Train, measure and publish a student.

    Raises:
        ParamsError: the network, optimizer, device, precision, temperature or loss cannot be had.
        DataError: an image is missing, damaged or changed, or the evaluation folder does not fit.
        ShardError: training diverged.
    """
    if config.labels == "store":
        check_temperature(config, inputs.view)
        check_loss(config, inputs.view)
    source = StoredCrops(inputs.view, config.crops_per_image, config.seed, config.labels)
    evaluation = None
    if inputs.evaluation is not None:
        evaluation = read_class_folder(
            inputs.evaluation.name, inputs.evaluation, inputs.class_names
        )
    learned = learn(config, source, evaluation=evaluation, progress=progress, label="student")
    numbers = learned.history.numbers() | {"num_parameters": learned.num_parameters}
    numbers["store"] = {**inputs.store_digests}
    write_metrics(output.metrics, numbers, learned.history)
    save(
        output.model,
        config,
        learned,
        inputs.class_names,
        stage="train",
        revision=REVISION,
        labels=config.labels,
        calibration=inputs.view.meta.calibration,
        view=inputs.view.meta.digest,
    )
    name = None if evaluation is None else evaluation.name
    return Report(numbers, (sentence("student", config, learned, name),))

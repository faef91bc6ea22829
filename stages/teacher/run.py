"""Train the teacher on the ground truth and publish it as a model folder."""

from dataclasses import dataclass
from pathlib import Path

from stages.shared.contract import Progress, Report
from stages.shared.fresh_crops import fresh_crops
from stages.shared.training.evaluation import read_class_folder
from stages.shared.training.learner import Outputs as Outputs
from stages.shared.training.learner import learn, save, sentence, waited, write_metrics
from stages.shared.training.ranks import Ranks
from stages.teacher.config import Config
from store.images import ImageTable

REVISION = 2


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the teacher learns from."""

    images: ImageTable
    """Training images with their classes."""
    images_folder: Path
    """Folder that the table's paths are relative to."""
    evaluation: Path | None = None
    """Folder of class folders to measure on; `Config.evaluation`."""


def run(
    config: Config,
    inputs: Inputs,
    output: Outputs,
    progress: Progress,
    ranks: Ranks | None = None,
) -> Report:
    """Train, measure and publish a teacher; of several ranks, the first one publishes.

    Raises:
        ParamsError: the network, optimizer, device or precision cannot be had.
        DataError: an image is missing, damaged or changed, or the evaluation folder does not fit.
        ShardError: training diverged.
        RetryError: an image could not be read this time, or a process that reads died.
    """
    source = fresh_crops(config, config, inputs.images, inputs.images_folder)
    class_names = inputs.images.class_names
    evaluation = None
    if inputs.evaluation is not None:
        evaluation = read_class_folder(inputs.evaluation.name, inputs.evaluation, class_names)
    learned = learn(
        config,
        source,
        evaluation=evaluation,
        progress=progress,
        label="teacher",
        ranks=ranks,
        places=output.places,
        tells=True,
    )
    if ranks is not None and not ranks.is_first:
        return Report()
    numbers = learned.history.numbers() | {"num_parameters": learned.num_parameters}
    write_metrics(output.metrics, numbers, learned.history)
    save(output.model, config, learned, class_names, stage="teacher", revision=REVISION)
    name = None if evaluation is None else evaluation.name
    return Report(numbers, (sentence("teacher", config, learned, name), *waited(learned)))

"""Train a classifier on the student's frozen features, and publish both as a model folder."""

from dataclasses import dataclass
from pathlib import Path

from stages.linear.config import Config
from stages.linear.core import on_features
from stages.shared import models
from stages.shared.contract import Progress, Report
from stages.shared.fresh_crops import fresh_crops
from stages.shared.model_config import ModelConfig
from stages.shared.training.evaluation import Evaluator, read_class_folder
from stages.shared.training.fit import fit
from stages.shared.training.learner import Learned, save, sentence, waited, write_metrics
from stages.shared.training.learner import Outputs as Outputs
from store.images import ImageTable

REVISION = 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the classifier learns from."""

    model: Path
    """Model folder of the student, such as ``models/student``."""
    images: ImageTable
    """Training images with their classes."""
    images_folder: Path
    """Folder that the table's paths are relative to."""
    evaluation: Path | None = None
    """Folder of class folders to measure on; `Config.evaluation`."""


def run(config: Config, inputs: Inputs, output: Outputs, progress: Progress) -> Report:
    """Train, measure and publish a classifier on the student's features.

    The features stay as they are, batch normalisation included: its statistics are the student's.

    Raises:
        ParamsError: the student's classifier cannot be told, or the optimizer, device or precision
            cannot be had.
        DataError: there is no student, an image is missing, damaged or changed, or the evaluation
            folder does not fit.
        ShardError: training diverged.
        RetryError: an image could not be read this time, or a process that reads died.
    """
    student = models.load_model(inputs.model)
    card = models.load_card(inputs.model)
    network = ModelConfig(
        name=card.name,
        model_kwargs=card.model_kwargs,
        weights=str(inputs.model),
        new_classifier=True,
    )
    learner = config.with_model(network)
    class_names = inputs.images.class_names
    source = fresh_crops(config, config, inputs.images, inputs.images_folder)
    model = on_features(student, network, len(class_names), config.seed)
    name, evaluator = None, None
    if inputs.evaluation is not None:
        found = read_class_folder(inputs.evaluation.name, inputs.evaluation, class_names)
        evaluator = Evaluator(found, model.spec, num_workers=config.num_workers)
        name = found.name
    history = fit(
        model.module,
        model.spec,
        source,
        config,
        evaluator=evaluator,
        progress=progress,
        label="linear",
        places=output.places,
        classifier_only=True,
        tells=True,
    )
    learned = Learned(model, history)
    numbers = history.numbers() | {
        "num_parameters": learned.num_parameters,
        "num_trained": num_trained(model),
    }
    write_metrics(output.metrics, numbers, history)
    save(
        output.model,
        learner,
        learned,
        class_names,
        stage="linear",
        revision=REVISION,
        student=card.digest,
    )
    role = "classifier on the features of"
    return Report(numbers, (sentence(role, learner, learned, name), *waited(learned)))


def num_trained(model: models.Model) -> int:
    """Numbers of the classifier, the only ones that were trained."""
    names = models.classifier_parameters(model.module)
    return sum(part.numel() for name, part in model.module.named_parameters() if name in names)

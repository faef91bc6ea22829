"""Measure a model folder on named sets; computes in float32 whatever it was trained in."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stages.evaluate.config import Config, ImageSet
from stages.evaluate.inputs import read_set
from stages.shared import devices, models
from stages.shared.contract import Json, Progress, Report
from stages.shared.model_config import PixelSpec
from stages.shared.training.evaluation import EvaluationSet, Evaluator
from stages.shared.training.history import Accuracy, accuracy_numbers
from stages.shared.training.learner import write_json
from store.atomic import replace_folder
from store.errors import DataError

REVISION = 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is measured on what."""

    model: Path
    """Model folder that stage teacher or train wrote."""
    sets: Mapping[str, Path]
    """Folders of class folders by name; `Config.folders`."""
    label_files: Mapping[str, Path] = field(default_factory=dict)
    """JSON files of labels by name of the set; `Config.label_files`."""


def run(config: Config, inputs: Inputs, output: Path, progress: Progress) -> Report:
    """Write ``summary.json`` (accuracies of each set) and ``classes.csv`` into ``output``.

    A set has top-1, top-5 and the number of images; where images have several labels, there is no
    top-5. All sets are listed and checked before the first is measured.

    Raises:
        ParamsError: the device cannot be had.
        DataError: the model folder is damaged, a set or its file of labels is missing, damaged or
            does not fit the training, or an image cannot be read.
        ShardError: the network's outputs are not finite.
    """
    device = devices.choose(config.device, "evaluate.device")
    card = models.load_card(inputs.model)
    training = card.extra.get("training")
    if isinstance(training, dict) and training.get("loss") == "projection":
        raise DataError(
            f"{inputs.model}: this student learned projections and has no classes to be measured; "
            "run `ferkd-pipeline stage linear`, which trains a classifier on its features"
        )
    class_names = card.classes
    settings = config.image_sets()
    assert inputs.label_files.keys() == config.label_files().keys()
    sets = [
        read_set(name, settings[name], folder, inputs.label_files.get(name), class_names, progress)
        for name, folder in inputs.sets.items()
    ]
    model = models.load_model(inputs.model)
    module = model.module.to(device).eval()
    found: dict[str, Accuracy] = {}
    for images in sets:
        spec = _input_spec(settings[images.name], _input_spec(config, model.spec))
        evaluator = Evaluator(
            images, spec, batch_size=config.batch_size, num_workers=config.num_workers
        )
        progress.start(f"evaluate {images.name}", len(images.paths), "images")
        found[images.name] = evaluator(module, device, progress)
    numbers = {images.name: _numbers(images, found[images.name]) for images in sets}
    with replace_folder(output) as partial:
        write_json(partial / "summary.json", numbers)
        _write_classes(partial / "classes.csv", found, class_names)
    return Report(numbers, tuple(_line(images, found[images.name]) for images in sets))


def _input_spec(settings: Config | ImageSet, spec: PixelSpec) -> PixelSpec:
    if settings.input_size is not None:
        spec = replace(spec, size=settings.input_size)
    if settings.crop_ratio is not None:
        spec = replace(spec, crop_ratio=settings.crop_ratio)
    return spec


def _numbers(images: EvaluationSet, accuracy: Accuracy) -> Json:
    numbers = accuracy_numbers(accuracy)
    if images.labels is not None:
        del numbers["top5"]
    return numbers


def _write_classes(path: Path, found: Mapping[str, Accuracy], class_names: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "class", "set_class", "num_images", "top1"])
        for set_name, each in found.items():
            rows = zip(class_names, each.class_images, each.class_correct, strict=True)
            for class_name, num_images, correct in rows:
                share = f"{correct / num_images:.6f}" if num_images else ""
                pair = f"{set_name} {class_name}"  # what a plot has a bar for
                writer.writerow([set_name, class_name, pair, num_images, share])


def _line(images: EvaluationSet, accuracy: Accuracy) -> str:
    top1 = f"{images.name}: top-1 {100 * accuracy.top1:.1f} %"
    if images.labels is None:
        return f"{top1}, top-5 {100 * accuracy.top5:.1f} % of {accuracy.num_images:,} images"
    return f"{top1} (any of an image's labels) of {accuracy.num_images:,} images that have labels"

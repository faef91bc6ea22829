"""Measure a model folder on named sets; computes in float32 whatever it was trained in."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stages.evaluate.config import Config
from stages.shared import devices, models
from stages.shared.contract import Json, Progress, Report
from stages.shared.model_config import PixelSpec
from stages.shared.training.evaluation import Evaluator, read_class_folder
from stages.shared.training.history import Accuracy, accuracy_numbers
from stages.shared.training.learner import write_json
from store.atomic import replace_folder

REVISION = 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is measured on what."""

    model: Path
    """Model folder that stage teacher or train wrote."""
    sets: Mapping[str, Path]
    """Folders of class folders by name; `Config.sets`."""


def run(config: Config, inputs: Inputs, output: Path, progress: Progress) -> Report:
    """Write ``summary.json`` (top-1 and top-5 of each set) and ``classes.csv`` into ``output``.

    Raises:
        ParamsError: the device cannot be had.
        DataError: the model folder is damaged, a set is missing, holds an unknown class or an
            image that cannot be read.
        ShardError: the network's outputs are not finite.
    """
    device = devices.choose(config.device, "evaluate.device")
    class_names = models.load_card(inputs.model).classes
    model = models.load_model(inputs.model)
    module = model.module.to(device).eval()
    spec = _input_spec(config, model.spec)
    listed = [read_class_folder(name, folder, class_names) for name, folder in inputs.sets.items()]
    progress.start("evaluate", len(listed), "sets")
    found: dict[str, Accuracy] = {}
    for images in listed:
        evaluator = Evaluator(
            images, spec, batch_size=config.batch_size, num_workers=config.num_workers
        )
        found[images.name] = evaluator(module, device)
        progress.advance()
    numbers: dict[str, Json] = {name: accuracy_numbers(each) for name, each in found.items()}
    with replace_folder(output) as partial:
        write_json(partial / "summary.json", numbers)
        _write_classes(partial / "classes.csv", found, class_names)
    return Report(numbers, tuple(_line(name, each) for name, each in found.items()))


def _input_spec(config: Config, spec: PixelSpec) -> PixelSpec:
    if config.input_size is not None:
        spec = replace(spec, size=config.input_size)
    if config.crop_ratio is not None:
        spec = replace(spec, crop_ratio=config.crop_ratio)
    return spec


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


def _line(name: str, accuracy: Accuracy) -> str:
    return (
        f"{name}: top-1 {100 * accuracy.top1:.1f} %, top-5 {100 * accuracy.top5:.1f} % "
        f"of {accuracy.num_images:,} images"
    )

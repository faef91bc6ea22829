"""What can be said of labels without training on them.

Shapes: N images, M crops an image, C classes, B crops of a step.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.student import Prepared, prepare
from experiments.study import Study
from stages.shared import models
from stages.shared.training.batches import StepPlan, StoredCrops, select_step
from stages.shared.training.evaluation import Evaluator, read_class_folder
from stages.shared.training.labels import LabelTensors
from stages.shared.training.mixing import draw_mix, mixed_label_variance
from store import images, tables
from store.images import ImageTable
from store.layout import Layout, calibrated
from store.overlay import Action
from store.view.reader import TrainingView

Row = dict[str, str | float | int]

ACTIONS = (Action.KEEP, Action.DROP, Action.SOFTEN, Action.REVISE, Action.TRUTH)
_BLOCK = 500  # images whose labels are made dense at once
_MIXED_STEPS = 400


def labels(found: Study, world: str, arm: str) -> Row:
    """Shares of actions, entropy and rightness of the labels that an arm is served.

    Entropy in nats, over the crops that are not dropped. A label is right where its most probable
    class is the digit that was written, whatever the folder says.
    """
    ready = prepare(found, world, arm, found.seeds[0])
    view, table = ready.plan.open(), images.load(ready.plan.layout)
    truth = true_classes(ready.world, table)
    entropies, right = [], []
    for rows, dense in _served(view, ready):
        with np.errstate(divide="ignore", invalid="ignore"):
            each = -np.where(dense > 0, dense * np.log(dense), 0).sum(2)
        own = truth[view.image_ids[rows]][:, None, None]
        # Stored probabilities are rounded: the two largest may be equal, and that is not wrong.
        is_right = np.take_along_axis(dense, own, 2)[:, :, 0] >= dense.max(2) - 1e-6
        served = ~np.isnan(dense[:, :, 0])
        entropies.append(each[served])
        right.append(is_right[served])
    row: Row = {"world": world, "arm": arm}
    row |= _shares(ready.plan.layout, arm) if ready.arm.steps else {}
    row["entropy"] = round(float(np.concatenate(entropies).mean()), 4)
    row["right"] = round(float(np.concatenate(right).mean()), 4)
    return row


def true_classes(world: Path, table: ImageTable) -> NDArray[np.int64]:
    """The digit written on each training image (N,), from the list of those that lie wrong."""
    truth = table.class_ids.astype(np.int64)
    wrong = wrong_labels(world)
    for place, path in enumerate(table.paths):
        if path in wrong:
            truth[place] = table.class_names.index(wrong[path])
    return truth


def wrong_labels(world: Path) -> dict[str, str]:
    """The true class of every training image that lies under a wrong one, by path."""
    path = world / "data" / "digits" / "wrong_labels.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["true_class"] for row in csv.DictReader(file)}


def noise(found: Study, world: str, arm: str) -> Row:
    """How well a calibration's step noise finds the images that lie under a wrong class."""
    ready = prepare(found, world, arm, found.seeds[0])
    table = images.load(ready.plan.layout)
    parts = sorted(ready.plan.layout.folder(calibrated(arm)).glob("_suspects-*.parquet"))
    places = [place for part in parts for place in tables.read_table(part)["image_id"].to_pylist()]
    suspects = {table.paths[place] for place in places}
    wrong = set(wrong_labels(ready.world))
    hits = len(suspects & wrong)
    return {
        "world": world,
        "arm": arm,
        "images": len(table),
        "wrong": len(wrong),
        "suspected": len(suspects),
        "precision": round(hits / len(suspects), 4) if suspects else 0.0,
        "recall": round(hits / len(wrong), 4) if wrong else 0.0,
    }


def mixing(found: Study, world: str, arm: str) -> Row:
    """How mixing moves labels, over the steps of the first seed.

    moved: mean over crops of sum_c (mixed - own)^2. variance: of the labels that one image gives,
    summed over classes, mean over images; without mixing it is the teacher's own.
    """
    ready = prepare(found, world, arm, found.seeds[0])
    config, view = ready.config, ready.plan.open()
    source = StoredCrops(view, config.seed, "store" if config.labels == "store" else "truth")
    plan = StepPlan(config.passes(source.num_images), config.seed)
    assert config.model.input_size is not None, "the study's students have a size"
    count = torch.zeros(view.num_images, dtype=torch.float64)
    total = torch.zeros(view.num_images, view.num_classes, dtype=torch.float64)
    squares = torch.zeros_like(total)
    moved = []
    for step in range(min(_MIXED_STEPS, config.num_steps(source.num_images))):
        rows = np.concatenate([part for _, part in plan.rows(step)])
        own = LabelTensors.from_batch(select_step(source, plan, step).batch)
        mix = draw_mix(config, step, config.model.input_size)
        mixed = own if mix is None else own.mixed(torch.from_numpy(mix.partners), mix.share)
        moved.append(mixed_label_variance(own, mixed, view.num_classes))
        dense = mixed.expand(view.num_classes)
        place = torch.from_numpy(np.repeat(rows, config.crops_per_image))
        count.index_add_(0, place, torch.ones(len(place), dtype=torch.float64))
        total.index_add_(0, place, dense)
        squares.index_add_(0, place, dense**2)
    seen = count > 1
    n = count[seen, None]
    variance = ((squares[seen] - total[seen] ** 2 / n) / (n - 1)).sum(1).mean()
    return {
        "world": world,
        "arm": arm,
        "moved": round(float(np.mean(moved)), 4),
        "variance": round(float(variance), 4),
    }


def teacher(found: Study, world: str) -> Row:
    """Top-1 of a world's teacher on val and test."""
    ready = prepare(found, world, found.baseline, found.seeds[0])
    folder = ready.world / "models" / "teacher"
    model = models.load_model(folder)
    row: Row = {"world": world, "teacher": found.worlds[world].teacher}
    for split in ("val", "test"):
        folder = ready.world / "data" / "digits" / split
        evaluation = read_class_folder(split, folder, ready.plan.class_names)
        accuracy = Evaluator(evaluation, model.spec)(model.module.eval(), torch.device("cpu"))
        row[split] = round(accuracy.top1, 6)
    return row


def _served(
    view: TrainingView, ready: Prepared
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield rows and their labels (rows, M, C), NaN where a crop is dropped."""
    crops = np.arange(view.num_crops)
    is_truth = ready.config.labels == "truth"
    for start in range(0, view.num_images, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, view.num_images))
        batch = view.gather(rows, np.broadcast_to(crops, (len(rows), len(crops))))
        if is_truth:
            dense = np.eye(view.num_classes)[np.repeat(batch.targets, len(crops))]
        else:
            dense = LabelTensors.from_batch(batch).expand(view.num_classes).numpy()
        yield rows, dense.reshape(len(rows), len(crops), view.num_classes)


def _shares(layout: Layout, arm: str) -> Row:
    """Share of the crops that each action took."""
    parts = sorted(layout.folder(calibrated(arm)).glob("part-*.parquet"))
    actions = np.concatenate(
        [tables.column(tables.read_table(part, ["action"]), "action") for part in parts]
    )
    return {each.name.lower(): round(float((actions == each).mean()), 4) for each in ACTIONS}

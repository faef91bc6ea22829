"""Crops a second of loading, on one core: from image files and labels to what a step needs.

Shapes: N images, I images a step, m crops an image, B = I x m, (h, w) the input size.
"""

import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from benchmarks.training.reference_loader import ReferenceLoader, cut, read
from benchmarks.training.turns import seconds_in_turns
from benchmarks.training.world import World
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import normalise
from stages.shared.training.batches import StepPlan, StoredCrops, select_step
from stages.shared.training.image_reader import KEPT_BYTES
from stages.shared.training.loader import StepBatches, TrainingBatch
from stages.shared.training.passes import Passes
from store.view.reader import TrainingView

SIZE = (224, 224)
SPEC = PixelSpec(
    size=SIZE,
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop_ratio=0.875,
    crop_mode="center",
)
CROPS_AN_IMAGE = (1, 4, 8)
IMAGES_A_STEP = 16
_ENDLESS = 2**31

Loader = Callable[[], TrainingBatch]


class LargeStore(StoredCrops):
    """Crops of a data set too large to be kept decoded, however few images stand for it."""

    def __init__(self, view: TrainingView, labels: Literal["store", "truth"] = "store") -> None:
        super().__init__(view, 0, labels)
        self.decoded_bytes = max(self.decoded_bytes, KEPT_BYTES + 1)


def step_plan(num_images: int, images_a_step: int, m: int) -> StepPlan:
    """Steps without end."""
    return StepPlan(Passes.equal(num_images, images_a_step * m, m, _ENDLESS), 0)


def loader(view: TrainingView, m: int, resize: Literal["cpu", "device"] = "cpu") -> Loader:
    """What makes the next batch of ours, whenever it is called."""
    source = LargeStore(view)
    images = min(IMAGES_A_STEP, view.num_images)
    batches = StepBatches(source, step_plan(view.num_images, images, m), SPEC, resize=resize)
    steps = itertools.count()
    return lambda: batches.make(next(steps))


def reference_loader(world: World, m: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """What makes the next batch of the reference, of as many images."""
    rng = np.random.default_rng(0)
    reference = ReferenceLoader(world, SPEC, m, rng)
    num_images = world.labels.num_images
    images = min(IMAGES_A_STEP, num_images)
    return lambda: reference.batch(rng.permutation(num_images)[:images].tolist())


def rates(world: World, rounds: int) -> dict[str, float]:
    """Crops a second and ratios to the reference, by m; of the best rounds."""
    view = world.open_view()
    images = min(IMAGES_A_STEP, view.num_images)
    tasks: dict[str, Callable[[], object]] = {}
    for m in CROPS_AN_IMAGE:
        tasks[f"loader_rate_m{m}"] = loader(view, m)
        tasks[f"loader_normalised_rate_m{m}"] = _normalised(loader(view, m))
        tasks[f"reference_rate_m{m}"] = reference_loader(world, m)
    seconds = seconds_in_turns(tasks, rounds)
    found = {
        name: images * int(name.rpartition("m")[2]) / min(values)
        for name, values in seconds.items()
    }
    for m in CROPS_AN_IMAGE:
        reference = found[f"reference_rate_m{m}"]
        found[f"loader_ratio_m{m}"] = found[f"loader_rate_m{m}"] / reference
        found[f"loader_normalised_ratio_m{m}"] = found[f"loader_normalised_rate_m{m}"] / reference
    found["loader_ratio"] = found["loader_ratio_m4"]
    return found


def pixel_differences(world: World, m: int = 4) -> dict[str, float]:
    """How far our pixels lie from Pillow's bilinear ones, in levels, over two steps' crops."""
    view = world.open_view()
    source, images = LargeStore(view), min(IMAGES_A_STEP, view.num_images)
    plan = step_plan(view.num_images, images, m)
    batches = StepBatches(source, plan, SPEC)
    differences = []
    for step in range(2):
        chosen = select_step(source, plan, step)
        boxes, flips = chosen.batch.boxes, chosen.batch.flips
        theirs = [
            np.asarray(cut(read_image, box, flip, SIZE))
            for path, own, mirrored in zip(chosen.paths, boxes, flips, strict=True)
            for read_image in [read(world.images / path)]
            for box, flip in zip(own, mirrored.tolist(), strict=True)
        ]
        ours = batches.make(step).pixels.permute(0, 2, 3, 1).numpy()
        differences.append(np.abs(ours.astype(np.int16) - np.stack(theirs)))
    found = np.stack(differences)
    return {
        "pixel_max_difference": float(found.max()),
        "pixel_share_within_2": float((found <= 2).mean()),
        "pixel_share_equal": float((found == 0).mean()),
    }


def _normalised(make: Loader) -> Callable[[], torch.Tensor]:
    return lambda: normalise(make().pixels, SPEC.mean, SPEC.std)

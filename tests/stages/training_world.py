"""A small world for the tests of training: coloured squares on disk and a view in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from PIL import Image

from stages.shared.training.batches import StepPlan
from stages.shared.training.passes import Passes
from store.batch import LabelBatch
from store.codecs import LabelSpec
from store.images import ImageTable
from store.random import draw_kept, path_hashes
from store.view.images import StoredImages
from store.view.reader import ViewMeta

torch.set_num_threads(1)  # kernels this small lose more to waiting for a second core than they gain

CLASS_NAMES = ("blue", "green", "red")
_COLOURS = {"blue": (30, 30, 200), "green": (30, 180, 30), "red": (200, 40, 40)}

NETWORK: dict[str, Any] = {
    "name": "resnet18",
    "model_kwargs": {
        "layers": [1, 1, 1, 1],
        "channels": [8, 8, 16, 16],
        "stem_width": 8,
        "replace_stem_pool": True,
    },
    "input_size": (16, 16),
}
"""A residual network of a few thousand parameters that learns three colours in twenty steps."""


def write_images(folder: Path, *, num_per_class: int = 8, side: int = 24, seed: int = 0) -> None:
    """Write class folders of noisy coloured PNG and JPEG images, of different sizes."""
    rng = np.random.default_rng(seed)
    for class_name, colour in _COLOURS.items():
        (folder / class_name).mkdir(parents=True)
        for number in range(num_per_class):
            height, width = side + rng.integers(0, 5, 2)
            noise = rng.normal(0, 40, (height, width, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            suffix = "png" if number % 2 else "jpg"
            Image.fromarray(pixels).save(folder / class_name / f"{number}.{suffix}")


def image_table(folder: Path) -> ImageTable:
    """Index what `write_images` wrote."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.*"))
    sizes = []
    for path in paths:
        with Image.open(folder / path) as image:
            sizes.append((image.height, image.width))
    return ImageTable(
        paths=np.array(paths, dtype=object),
        class_ids=np.array([CLASS_NAMES.index(path.split("/")[0]) for path in paths], np.int32),
        heights=np.array([height for height, _ in sizes], np.int32),
        widths=np.array([width for _, width in sizes], np.int32),
        content_hashes=np.array(
            [xxhash.xxh3_128_hexdigest((folder / path).read_bytes()) for path in paths],
            dtype=object,
        ),
        class_names=CLASS_NAMES,
    )


@dataclass(frozen=True)
class FakeView:
    """What a `TrainingView` answers, for M fixed crops an image; no files of its own."""

    folder: Path
    images: ImageTable
    num_crops: int = 6
    certainty: float = 0.7
    """Weight of the target in every label; its neighbour class has 0.1 more than the others."""

    calibration: str | None = None
    temperature: float = 1.0

    @property
    def meta(self) -> ViewMeta:
        label = LabelSpec("marginal_smoothing", 2, self.num_classes, "compact", self.temperature)
        return ViewMeta(
            "0" * 32,
            str(self.folder),
            self.num_images,
            self.num_crops,
            self.num_classes,
            label,
            self.calibration,
        )

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return self.images.num_classes

    @property
    def heights(self) -> NDArray[np.int32]:
        return self.images.heights

    @property
    def widths(self) -> NDArray[np.int32]:
        return self.images.widths

    def paths(self, rows: NDArray[np.int64]) -> list[str]:
        return [str(self.folder / self.images.paths[row]) for row in rows]

    @property
    def content_hashes(self) -> NDArray[np.uint64] | None:
        return None

    @property
    def stored(self) -> StoredImages | None:
        return None

    def draw(self, rows: NDArray[np.int64], first: int, m: int, seed: int) -> NDArray[np.int64]:
        hashes = path_hashes(self.images.paths)[rows]
        num_kept = np.full(len(rows), self.num_crops)
        return draw_kept(seed, hashes, num_kept, np.full(len(rows), first), m)

    def gather(self, rows: NDArray[np.int64], crops: NDArray[np.int64]) -> LabelBatch:
        targets = self.images.class_ids[rows].astype(np.int64)
        boxes = np.empty((*crops.shape, 4), np.int32)
        boxes[..., 0] = crops
        boxes[..., 1] = 2 * crops % 7
        boxes[..., 2] = 12 + crops % 3
        boxes[..., 3] = 10 + crops % 4
        own = np.broadcast_to(targets[:, None], crops.shape)
        tail = (1 - self.certainty - 0.1) / self.num_classes
        return LabelBatch(
            boxes=boxes,
            flips=crops % 2 == 1,
            class_ids=np.stack([own, (own + 1) % self.num_classes], axis=-1),
            weights=np.full((*crops.shape, 2), (self.certainty, 0.1), np.float32),
            tail=np.full(crops.shape, tail, np.float32),
            targets=targets,
        )


def plan_of(num_images: int, images_per_step: int, seed: int, m: int = 1) -> StepPlan:
    """Steps of so many images, in passes that all take ``m`` crops an image."""
    return StepPlan(Passes.equal(num_images, images_per_step * m, m, 1000), seed)

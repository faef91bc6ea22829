"""FKD's published way from files to what a step needs, in our own words.

For each image: unpickle its labels, decode it with Pillow, draw m of the M crops with replacement,
and for each of them cut, resize (bilinear), mirror, turn into a float tensor and normalise. Labels
become dense (B, C) on the CPU.

Shapes: I images a batch, m crops an image, B = I x m, K classes stored, C classes, (h, w) the input
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional

from benchmarks.training.world import World
from stages.shared.model_config import PixelSpec


@dataclass(frozen=True, slots=True)
class ReferenceLoader:
    """Batches out of FKD's files."""

    world: World
    spec: PixelSpec
    m: int
    rng: np.random.Generator

    def batch(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops (B, 3, h, w) float32, normalised, and dense labels (B, C) of images ``rows``."""
        table = self.world.labels.table
        crops, labels = [], []
        for row in rows:
            path = PurePosixPath(table.paths[row])
            coords, flips, pairs = _load(self.world.fkd_labels / path)
            image = read(self.world.images / path)
            chosen = self.rng.integers(0, len(flips), self.m)
            for crop in chosen.tolist():
                box = coords[crop] * (image.height, image.width, image.height, image.width)
                pixels = cut(image, np.rint(box).astype(int), flips[crop], self.spec.size)
                tensor = functional.to_tensor(pixels)
                crops.append(functional.normalize(tensor, self.spec.mean, self.spec.std))
            labels.append(pairs[chosen])
        return torch.stack(crops), dense_labels(torch.cat(labels), table.num_classes)


def read(path: Path) -> Image.Image:
    """An image file as RGB, by Pillow."""
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def cut(
    image: Image.Image, box: NDArray[np.integer[Any]], flip: bool, size: tuple[int, int]
) -> Image.Image:
    """The crop ``box`` (top, left, height, width), resized by Pillow, mirrored where asked for."""
    top, left, height, width = box.tolist()
    pixels: Image.Image = functional.resized_crop(image, top, left, height, width, list(size))
    return functional.hflip(pixels) if flip else pixels


def dense_labels(pairs: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Labels (B, C) of marginal smoothing, from class ids and probabilities (B, 2, K)."""
    ids, probs = pairs[:, 0].long(), pairs[:, 1]
    rest = (1 - probs.sum(1, keepdim=True)).clamp(min=0) / (num_classes - probs.shape[1])
    return rest.repeat(1, num_classes).scatter_(1, ids, probs)


def _load(path: Path) -> Any:
    # Its trainer unpickles (torch.load's default then); these files are our own.
    return torch.load(path.with_name(f"{path.name.split('.')[0]}.tar"), weights_only=False)

"""Crops a second of label generation on one core: from image files to what a teacher is given.

The teacher itself is left out: it costs both the same. Shapes: N images, M crops each, (h, w) the
input size.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

from benchmarks.training.reference_loader import read
from benchmarks.training.turns import seconds_in_turns
from stages.infer.clock import NoClock
from stages.infer.feed import CropFeed, CropList, Crops, PixelKey
from stages.shared.pixels import Interpolation, normalise
from store.images import ImageTable

SIZE = (224, 224)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH_SIZE = 256
_IMAGES_A_ROUND = 2


def reference(
    folder: Path, images: ImageTable, crops: Crops, interpolation: Interpolation
) -> Iterator[torch.Tensor]:
    """FKD's published way: all crops of an image as float tensors, (M, 3, h, w) normalised.

    Pillow decodes once; each crop is cut, resized, mirrored, made a tensor and normalised alone.
    Its boxes are drawn one by one on the way, which is left out here.
    """
    mode = InterpolationMode(interpolation)
    for image, path in enumerate(images.paths):
        pixels = read(folder / str(path))
        found = []
        for box, flip in zip(crops.boxes[image].tolist(), crops.flips[image].tolist(), strict=True):
            crop = functional.resized_crop(pixels, *box, list(SIZE), mode)
            tensor = functional.to_tensor(functional.hflip(crop) if flip else crop)
            found.append(functional.normalize(tensor, MEAN, STD))
        yield torch.stack(found)


def ours(
    folder: Path, images: ImageTable, crops: Crops, interpolation: Interpolation
) -> Iterator[torch.Tensor]:
    """The stage's batches (B, 3, h, w) uint8, made by one thread."""
    key: PixelKey = (SIZE, interpolation)
    feed = CropFeed(folder, images, crops, [key], BATCH_SIZE, num_workers=1, clock=NoClock())
    rows = np.argwhere(np.ones_like(crops.flips))
    for batch in feed.batches([CropList(0, rows)]):
        yield batch.pixels[key][: len(batch.rows)]


def rates(folder: Path, images: ImageTable, crops: Crops, rounds: int) -> dict[str, float]:
    """Crops a second, those of the best rounds, and the ratio to the reference."""
    given = folder, images.slice(0, _IMAGES_A_ROUND), crops.first(_IMAGES_A_ROUND)
    tasks = {
        "infer_reference_rate": lambda: _all(reference(*given, "bicubic")),
        "infer_cpu_rate": lambda: _all(
            normalise(batch, MEAN, STD) for batch in ours(*given, "bicubic")
        ),
        "infer_cpu_uint8_rate": lambda: _all(ours(*given, "bicubic")),
        "infer_reference_bilinear_rate": lambda: _all(reference(*given, "bilinear")),
        "infer_cpu_bilinear_rate": lambda: _all(
            normalise(batch, MEAN, STD) for batch in ours(*given, "bilinear")
        ),
    }
    seconds = seconds_in_turns(tasks, rounds)
    num_crops = given[2].flips.size
    found = {name: num_crops / min(values) for name, values in seconds.items()}
    found["infer_cpu_ratio"] = found["infer_cpu_rate"] / found["infer_reference_rate"]
    found["infer_cpu_bilinear_ratio"] = (
        found["infer_cpu_bilinear_rate"] / found["infer_reference_bilinear_rate"]
    )
    return found


def pixel_differences(folder: Path, images: ImageTable, crops: Crops) -> dict[str, float]:
    """How far our pixels lie from Pillow's, in levels, over the crops of two images."""
    given = folder, images.slice(0, _IMAGES_A_ROUND), crops.first(_IMAGES_A_ROUND)
    found: dict[str, float] = {}
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    kinds: tuple[Interpolation, ...] = ("bilinear", "bicubic")
    for kind in kinds:
        theirs = torch.cat([(each * std + mean) * 255 for each in reference(*given, kind)])
        difference = (torch.cat(list(ours(*given, kind))) - theirs.round()).abs()
        found[f"{kind}_max_difference"] = float(difference.max())
        found[f"{kind}_share_within_2"] = float((difference <= 2).double().mean())
    return found


def _all(batches: Iterator[torch.Tensor]) -> None:
    for _ in batches:
        pass

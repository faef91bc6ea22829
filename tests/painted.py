"""A tiny project whose teacher is right by construction: classes are colours, it knows each.

What is wrong with a teacher can be planted: another order of classes, other pixels.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.world import merged

COLOURS = np.array(
    [
        *([200, 90, 90], [90, 200, 90], [90, 90, 200], [180, 170, 60], [60, 170, 180]),
        *([170, 60, 180], [120, 60, 60], [60, 120, 60], [60, 60, 120], [120, 120, 120]),
        *([40, 40, 40], [220, 220, 220]),
    ],
    dtype=np.float64,
)
NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx")
MEAN, STD = (0.2, 0.3, 0.4), (0.5, 0.4, 0.3)
CODE = f"""
from torch import nn
class Palette(nn.Module):
    pretrained_cfg = {{"input_size": (3, 8, 8), "mean": {MEAN}, "std": {STD}, "classifier": "fc"}}
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)
    def forward(self, x):
        return self.fc(x.mean((2, 3)))
def palette(num_classes):
    return Palette(num_classes)
def dead(num_classes):
    model = Palette(num_classes)
    model.fc.forward = lambda x: x.sum() * 0 + x.new_full((len(x), num_classes), float("nan"))
    return model
"""


def write_pictures(folder: Path, names: Sequence[str] = NAMES, num: int = 6, seed: int = 0) -> None:
    """Pictures of one colour and a little noise; class c has colour c."""
    random = np.random.default_rng(seed)
    for name, colour in zip(names, COLOURS, strict=False):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place in range(num):
            pixels = colour + random.normal(0, 8, 3) + random.normal(0, 20, (11, 13, 3))
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(folder / name / f"{place}.png")


def write_knowing(
    file: Path,
    order: Sequence[int] | None = None,
    num_classes: int = len(NAMES),
    sure: float = 40,
    pixels: tuple[Sequence[float], Sequence[float]] = (MEAN, STD),
) -> None:
    """Weights that say the nearest colour; output ``order[c]`` stands for class c.

    They are of pixels that are normalised by ``pixels``, mean and deviation.
    """
    places = list(range(num_classes)) if order is None else list(order)
    colours = (COLOURS[:num_classes] / 255 - pixels[0]) / pixels[1]
    weight, bias = np.empty((num_classes, 3)), np.empty(num_classes)
    weight[places], bias[places] = 2 * sure * colours, -sure * (colours**2).sum(axis=1)
    tensors = {"fc.weight": torch.tensor(weight).float(), "fc.bias": torch.tensor(bias).float()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


PARAMS: dict[str, Any] = {
    "store": {"root": "labels", "num_shards": 3},
    "index": {"images": "images", "num_workers": 1},
    "sample": {"seed": 5, "num_crops": 4},
    "infer": {
        "teacher": {"name": "palette:palette", "weights": "palette.safetensors"},
        "batch_size": 32,
        "num_workers": 2,
        "device": "cpu",
    },
    "compress": {"kind": "marginal_smoothing", "k": 2},
    "evaluate": {"sets": {"val": "val"}},
}


def write_project(folder: Path, names: Sequence[str] = NAMES, **changes: Any) -> None:
    """Pictures, the teacher's code and weights, and params.yaml; nothing is indexed."""
    write_pictures(folder / "images", names)
    write_pictures(folder / "val", names, seed=1)
    write_knowing(folder / "palette.safetensors", num_classes=len(names))
    (folder / "palette.py").write_text(CODE)
    write_params(folder, **changes)


def write_params(folder: Path, **changes: Any) -> None:
    """PARAMS with changes."""
    (folder / "params.yaml").write_text(json.dumps(merged(PARAMS, changes)))

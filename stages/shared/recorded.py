"""Replaying recorded augmentation: what sample drew is done to the pixels of resized crops.

Shapes: K crops, (h, w) their size, P operations a crop.

Teacher and student see a crop through this one function, after the resize and the flip, each at its
own size: levels do not depend on it. Crops are changed one by one, as planes, so neither the other
crops of a batch, nor its memory format, nor the number of threads changes a pixel.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from store.batch import RecordedOps
from store.operations import Operation

_BILINEAR = InterpolationMode.BILINEAR


def replay(crops: Tensor, ops: RecordedOps, out: Tensor | None = None) -> Tensor:
    """Return the crops as they were labelled.

    Args:
        crops: (K, 3, h, w) uint8, resized and flipped, on any device, in any memory format.
        ops: what was done to them: (.., P), the same crops in the same order. Operations that this
            version does not know must not be among them: `store.operations.from_table` and the
            training view have refused them.
        out: like ``crops``, to write to; ``crops`` itself to change them in place.

    Returns ``out``, or a new tensor in the memory format of ``crops``; ``crops`` themselves where
    nothing is recorded of any of them. Crops without an operation keep every bit.
    """
    codes = ops.codes.reshape(len(crops), -1)
    levels = ops.levels.reshape(len(crops), -1)
    changed = np.flatnonzero(codes.any(axis=1)).tolist()
    if out is None:
        out = crops.clone() if changed else crops
    elif out is not crops:
        out.copy_(crops)
    for place in changed:
        planes = out[place].contiguous()
        for code, level in zip(codes[place].tolist(), levels[place].tolist(), strict=True):
            if code != Operation.NONE:
                planes = _ACTIONS[Operation(code)](planes, level)
        out[place].copy_(planes)
    return out


def _contrast(planes: Tensor, factor: float) -> Tensor:
    """As torchvision's, with the mean grey from whole numbers: no order of adding changes it."""
    grey = functional.rgb_to_grayscale(planes)
    mean = grey.sum(dtype=torch.int64).double() / grey.numel()
    blended: Tensor = planes * factor + (1 - factor) * mean
    return blended.clamp(0, 255).to(torch.uint8)


def _shear(planes: Tensor, degrees: list[float]) -> Tensor:
    sheared: Tensor = functional.affine(
        planes,
        angle=0.0,
        translate=[0, 0],
        scale=1.0,
        shear=degrees,
        interpolation=_BILINEAR,
        center=[0, 0],
    )
    return sheared


def _shear_x(planes: Tensor, tangent: float) -> Tensor:
    return _shear(planes, [math.degrees(math.atan(tangent)), 0.0])


def _shear_y(planes: Tensor, tangent: float) -> Tensor:
    return _shear(planes, [0.0, math.degrees(math.atan(tangent))])


def _rotate(planes: Tensor, degrees: float) -> Tensor:
    rotated: Tensor = functional.rotate(planes, degrees, interpolation=_BILINEAR)
    return rotated


def _shift(planes: Tensor, right: int, down: int) -> Tensor:
    """By whole pixels: a fraction of one would blur the crop. What comes in is black."""
    moved = torch.zeros_like(planes)
    height, width = planes.shape[1:]
    if abs(right) < width and abs(down) < height:
        to = _cut(height, down), _cut(width, right)
        source = _cut(height, -down), _cut(width, -right)
        moved[:, to[0], to[1]] = planes[:, source[0], source[1]]
    return moved


def _cut(length: int, by: int) -> slice:
    return slice(max(by, 0), min(length + by, length))


def _translate_x(planes: Tensor, share: float) -> Tensor:
    return _shift(planes, round(share * planes.shape[2]), 0)


def _translate_y(planes: Tensor, share: float) -> Tensor:
    return _shift(planes, 0, round(share * planes.shape[1]))


_ACTIONS: dict[Operation, Callable[[Tensor, float], Tensor]] = {
    Operation.BRIGHTNESS: functional.adjust_brightness,
    Operation.CONTRAST: _contrast,
    Operation.SATURATION: functional.adjust_saturation,
    Operation.HUE: functional.adjust_hue,
    Operation.SHARPNESS: functional.adjust_sharpness,
    Operation.POSTERIZE: lambda planes, bits: functional.posterize(planes, int(bits)),
    Operation.SOLARIZE: functional.solarize,
    Operation.AUTOCONTRAST: lambda planes, _: functional.autocontrast(planes),
    Operation.EQUALIZE: lambda planes, _: functional.equalize(planes),
    Operation.INVERT: lambda planes, _: functional.invert(planes),
    Operation.ROTATE: _rotate,
    Operation.SHEAR_X: _shear_x,
    Operation.SHEAR_Y: _shear_y,
    Operation.TRANSLATE_X: _translate_x,
    Operation.TRANSLATE_Y: _translate_y,
}

"""From a decoded image to what a model sees: crop, resize, flip, normalise.

H and W are an image's height and width, h and w a model's input size, m crops an image, B batch.
Pixels stay uint8 until `normalise`. Resizing antialiases: without it a fast resize gives other
pixels than the teacher saw. torch's kernel on channels-last uint8 takes about a third of Pillow's
time and stays within 2 levels of Pillow's bilinear, 8 of its bicubic.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

Interpolation = Literal["bilinear", "bicubic"]
CropMode = Literal["center", "squash"]

_MAX_ASPECT = 64
"""Longer side of an image that is resized whole for evaluation, in shorter sides."""


def crop_resize(
    image: NDArray[np.uint8] | Tensor,
    boxes: ArrayLike,
    flips: ArrayLike,
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
    out: Tensor | None = None,
) -> Tensor:
    """Cut m boxes out of an image, resize each to ``size`` and mirror those with a flip.

    Args:
        image: (H, W, 3) uint8, RGB, on the CPU.
        boxes: (m, 4) integers: top, left, height, width in pixels. What lies outside the image is
            black, as in torchvision's RandomCrop with padding.
        flips: (m,) bool: mirror left to right, after the resize.
        size: height and width of the result.
        interpolation: how to resize; a box of exactly ``size`` is copied.
        out: (m, 3, h, w) uint8 to write to, such as a slice of a batch; channels-last is fastest.

    Returns ``out``, or a new channels-last tensor: (m, 3, h, w) uint8.
    """
    source = _as_planes(image)
    corners = np.asarray(boxes, dtype=np.int64).reshape(-1, 4).tolist()
    mirror = np.asarray(flips, dtype=np.bool_).reshape(-1).tolist()
    if out is None:
        out = torch.empty(
            (len(corners), 3, *size), dtype=torch.uint8, memory_format=torch.channels_last
        )
    assert out.shape == (len(mirror), 3, *size), "out has one place a crop"
    assert len(mirror) == len(corners), "one flip a box"
    for place, (top, left, height, width) in enumerate(corners):
        crop = resize(_cut(source, top, left, height, width), size, interpolation)[0]
        out[place].copy_(crop.flip(-1) if mirror[place] else crop)
    return out


def resize(planes: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Resize (B, 3, H, W) uint8 to (B, 3, h, w) with antialiasing, corners not aligned."""
    if tuple(planes.shape[2:]) == tuple(size):
        return planes
    # Contiguous first: on strided input the kernel falls back to planar output, half as fast.
    dense = planes.contiguous(memory_format=torch.channels_last)
    return functional.interpolate(dense, size, mode=interpolation, antialias=True)


def normalise(
    batch: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(pixels / 255 - mean) / std for each channel.

    ``batch`` is (B, 3, h, w) uint8 on any device; ``mean`` and ``std`` are of values in 0 to 1.
    Computed in float32 and rounded once to ``dtype``; device and memory format are kept.
    """
    offset, scale = [255 * value for value in mean], [1 / (255 * value) for value in std]
    rows = batch.permute(0, 2, 3, 1)
    if batch.device.type == "cpu" and rows.is_contiguous():
        return _normalise_rows(rows, offset, scale).permute(0, 3, 1, 2).to(dtype)
    values = batch.to(torch.float32)
    values.sub_(_constant(tuple(offset), batch.device)[:, None, None])
    values.mul_(_constant(tuple(scale), batch.device)[:, None, None])
    return values.to(dtype)


def _normalise_rows(rows: Tensor, offset: list[float], scale: list[float]) -> Tensor:
    """(B, h, w, 3) uint8 to float32: the same values as by channels, in a sixth of the time.

    A constant a channel would be added value by value; one a row is added by vector instructions.
    Crop by crop, what the first step wrote is in the cache for the next. Memory is of numpy, which
    asks for huge pages.
    """
    width, device = rows.shape[2], rows.device
    found = torch.from_numpy(np.empty(rows.shape, np.float32))
    for source, target in zip(rows.flatten(2), found.flatten(2), strict=True):
        target.copy_(source)
        target.sub_(_constant(tuple(offset), device, width))
        target.mul_(_constant(tuple(scale), device, width))
    return found


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device, repeats: int = 1) -> Tensor:
    """Numbers on a device, sent there once: to send them, a CPU waits for what a GPU has to do."""
    with torch.inference_mode(False):
        return torch.tensor(values * repeats, device=device)


def evaluation_crop(
    image: NDArray[np.uint8] | Tensor,
    size: tuple[int, int],
    crop_ratio: float,
    interpolation: Interpolation,
    crop_mode: CropMode = "center",
) -> Tensor:
    """Resize to floor(size / crop_ratio) and keep the centre, as timm and torchvision evaluate.

    ``center`` keeps the aspect ratio and resizes the shorter side; ``squash`` resizes both sides,
    as some timm models were trained. Of an image more than 64 times longer than wide only the
    middle is resized: whole, a row of a million pixels would take gigabytes.

    Takes (H, W, 3) uint8, returns (3, h, w) uint8.
    """
    source = _as_planes(image)
    target = (math.floor(size[0] / crop_ratio), math.floor(size[1] / crop_ratio))
    if crop_mode == "center":
        source = _without_far_ends(source, size)
        target = _keep_ratio(int(source.shape[2]), int(source.shape[3]), target)
    resized = resize(source, target, interpolation)
    top, left = round((target[0] - size[0]) / 2), round((target[1] - size[1]) / 2)
    return _cut(resized, top, left, *size)[0].contiguous()


def _as_planes(image: NDArray[np.uint8] | Tensor) -> Tensor:
    """(H, W, 3) as a (1, 3, H, W) view that torch knows to be channels-last."""
    pixels = image if isinstance(image, Tensor) else torch.from_numpy(image)
    assert pixels.dtype == torch.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    # The new axis comes first: added after the permutation its stride hides the memory format.
    return pixels.unsqueeze(0).permute(0, 3, 1, 2)


def _cut(planes: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """A box of (B, 3, H, W): a view where it lies inside, a copy on black where it does not."""
    full_height, full_width = planes.shape[2:]
    bottom, right = top + height, left + width
    if top >= 0 and left >= 0 and bottom <= full_height and right <= full_width:
        return planes[:, :, top:bottom, left:right]
    canvas = planes.new_zeros((planes.shape[0], 3, height, width)).contiguous(
        memory_format=torch.channels_last
    )
    rows = slice(max(top, 0), max(min(bottom, full_height), 0))
    columns = slice(max(left, 0), max(min(right, full_width), 0))
    inside = planes[:, :, rows, columns]
    start_row, start_column = max(-top, 0), max(-left, 0)
    canvas[
        :,
        :,
        start_row : start_row + inside.shape[2],
        start_column : start_column + inside.shape[3],
    ] = inside
    return canvas


def _without_far_ends(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of a very long image, enough of it for a centre crop of ``size``."""
    height, width = planes.shape[2:]
    aspect = math.ceil(_MAX_ASPECT * max(size) / min(size))
    kept_height, kept_width = min(height, aspect * width), min(width, aspect * height)
    # As many pixels off one end as off the other: the centre must stay where it is.
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return planes[:, :, top : height - top, left : width - left]


def _keep_ratio(height: int, width: int, target: tuple[int, int]) -> tuple[int, int]:
    """Size of an image whose one side fits ``target`` and whose other covers it."""
    if target[0] == target[1]:  # torchvision's Resize with one number cuts the longer side off
        shorter = target[0]
        if height <= width:
            return shorter, int(shorter * width / height)
        return int(shorter * height / width), shorter
    ratio = min(height / target[0], width / target[1])  # timm's ResizeKeepRatio rounds
    return round(height / ratio), round(width / ratio)

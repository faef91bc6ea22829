"""Cutting and resizing crops where a network is, out of whole images that were sent there.

H and W are an image's height and width, h and w a model's input size, B crops, P pixels of all
images together. A group is G crops that are resized at once; Y and X are the sides of its largest
box.

torch's antialiasing kernels for CUDA take no uint8, one image size a call, and no box that is a few
hundred times larger than the output. So resizing is written as what it is, a product with a matrix
of filter weights from the left and one from the right: a dozen kernels a group of crops, on any
device. As Pillow does, columns come first and are rounded before rows are.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.shared.pixels import Interpolation

_GROUP_PIXELS = 4 * 2**20
"""Pixels of a group before and after the resize, boxes filled up to the largest: some 250 MB with
all that is made of them. A larger box is read in strips of rows."""

_CUBIC = -0.5  # Pillow's, and torch's where it antialiases


class CropTable(NamedTuple):
    """Where crops lie in a buffer of images and how they leave it; (B,) int64 each."""

    start: NDArray[np.int64]
    """Pixels before the image's first."""
    image_height: NDArray[np.int64]
    image_width: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    """Of the box, which may leave the image."""
    width: NDArray[np.int64]
    flip: NDArray[np.int64]
    """1: mirrored left to right."""


def resize_crops(
    pixels: Tensor, table: CropTable, size: tuple[int, int], interpolation: Interpolation
) -> Tensor:
    """Cut boxes out of images, resize each to ``size`` and mirror those with a flip.

    Antialiased, corners not aligned, in float32: within 1 level of Pillow's bilinear, and within 2
    of what `crop_resize` makes of either kind. What lies outside an image is black. A box of
    exactly ``size`` is copied. Memory beyond input and result is bounded, whatever the boxes.

    Args:
        pixels: (P, 3) uint8, the images' rows one after the other, on any device.
        table: the B crops.
        size: height and width of the result.
        interpolation: how to resize.

    Returns (B, 3, h, w) uint8, channels last, on the device of ``pixels``.
    """
    device = pixels.device
    out = torch.empty(
        (len(table.start), 3, *size),
        dtype=torch.uint8,
        device=device,
        memory_format=torch.channels_last,
    )
    # Crops of like sizes together: little is filled up then.
    order = np.lexsort((table.width, table.height))
    numbers = torch.from_numpy(np.stack([np.arange(len(order)), *table])[:, order])
    if device.type == "cuda":
        numbers = numbers.pin_memory()  # else what is large would be waited for
    numbers = numbers.to(device, non_blocking=True)
    # Weights would be rounded to a mixed precision's few bits.
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for first, last, sides in _groups(table.height[order], table.width[order], size):
            places, *columns = numbers[:, first:last]
            group = _Group._make([*(each[:, None, None] for each in columns), *sides])
            out[places] = _resize_group(pixels, group, size, interpolation)
    return out


class _Group(NamedTuple):
    """A `CropTable` of crops that are resized at once, (G, 1, 1) each, on the device."""

    start: Tensor
    image_height: Tensor
    image_width: Tensor
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    tallest: int
    """Y."""
    widest: int
    """X."""


def _groups(
    heights: NDArray[np.int64], widths: NDArray[np.int64], out: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Yield where groups begin and end, and their largest sides."""
    first = tallest = widest = 0
    for place, (height, width) in enumerate(zip(heights.tolist(), widths.tolist(), strict=True)):
        area = max(tallest, height, out[0]) * max(widest, width, out[1])
        if place > first and (place + 1 - first) * area > _GROUP_PIXELS:
            yield first, place, (tallest, widest)
            first, tallest, widest = place, 0, 0
        tallest, widest = max(tallest, height), max(widest, width)
    yield first, len(heights), (tallest, widest)


def _resize_group(
    pixels: Tensor, group: _Group, size: tuple[int, int], interpolation: Interpolation
) -> Tensor:
    """Return (G, 3, h, w) uint8."""
    num_crops = len(group.start)
    columns = _weights(group.width, group.widest, size[1], interpolation)
    columns = torch.where(group.flip.bool(), columns.flip(1), columns).mT  # (G, X, w)
    rows = _weights(group.height, group.tallest, size[0], interpolation)  # (G, h, Y)
    strip = max(1, _GROUP_PIXELS // (num_crops * group.widest))
    total = torch.zeros((num_crops, 3, *size), device=pixels.device)
    for first in range(0, group.tallest, strip):
        last = min(first + strip, group.tallest)
        planes = _strip(pixels, group, first, last)
        narrow = torch.bmm(planes.view(num_crops, -1, group.widest), columns)
        narrow = _levels(narrow).view(num_crops, 3, last - first, size[1])
        total += torch.matmul(rows[:, None, :, first:last], narrow)
    return _levels(total).to(torch.uint8)


def _strip(pixels: Tensor, group: _Group, first: int, last: int) -> Tensor:
    """Rows ``first`` to ``last`` of every box, (G, 3, rows, X) float32; 0 outside the image."""
    device = pixels.device
    y = torch.arange(first, last, device=device)[:, None] + group.top
    x = torch.arange(group.widest, device=device) + group.left
    inside = ((y >= 0) & (y < group.image_height)) & ((x >= 0) & (x < group.image_width))
    index = torch.where(inside, group.start + y * group.image_width + x, 0)
    found = pixels.index_select(0, index.view(-1)).view(*index.shape, 3)
    planes = found.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return planes.mul_(inside[:, None])


def _weights(length: Tensor, longest: int, num_out: int, interpolation: Interpolation) -> Tensor:
    """Return (G, num_out, longest) float32: what each input is worth to each output."""
    device = length.device
    # In double precision: places in a long box need more bits than their differences.
    scale = length.double() / num_out
    centre = (torch.arange(num_out, device=device)[:, None] + 0.5) * scale
    source = torch.arange(longest, device=device)
    distance = ((source + 0.5 - centre) / scale.clamp(min=1)).abs_().float()
    weights = _filter(distance, interpolation).mul_(source < length)
    return weights.div_(weights.sum(2, keepdim=True))


def _filter(distance: Tensor, interpolation: Interpolation) -> Tensor:
    if interpolation == "bilinear":
        return (1 - distance).clamp_(min=0)
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance.square() + 1
    far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _levels(values: Tensor) -> Tensor:
    """Round half up, as Pillow does, to what a byte can hold; in place."""
    return values.add_(0.5).floor_().clamp_(0, 255)

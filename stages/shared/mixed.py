"""Replaying recorded mixing: a crop and one of another image become the picture that was labelled.

Shapes: K crops, J of them mixed, (h, w) their size.

Teacher and student mix through this one function, each at its own size: after both crops were
resized and flipped, before recorded operations act on the mixture. All of it is whole numbers, so
neither device, nor batch, nor memory format changes a pixel:

    Mixup   (s own + (1024 - s) partner + 512) div 1024, with s the share in 1/1024: half rounds up
    CutMix  the partner from pixel (edge h + 128) div 256 on, with each edge of the box in 1/256
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from store.batch import RecordedMix
from store.mixing import CUT_GRID, SHARE_BITS, SHARE_GRID, MixKind

_AT_ONCE = 2**22
"""Numbers of 32 bits that are made at a time."""


def mix_crops(crops: Tensor, partners: Tensor, mix: RecordedMix) -> Tensor:
    """Mix crops with their partners, in place.

    Args:
        crops: (K, 3, h, w) uint8, resized and flipped, on any device, in any memory format.
        partners: (J, 3, h, w) likewise: what is cut out of the other images, for the crops of
            ``mix`` that are mixed, in their order.
        mix: of the same K crops, in the same order.

    Returns ``crops``, of which those that are not mixed keep every bit.
    """
    places, of_mixed = np.flatnonzero(mix.kinds), partners_of(mix)
    assert len(places) == len(partners), "one partner for each mixed crop"
    _mixup(crops, partners, places, of_mixed)
    size = (crops.shape[2], crops.shape[3])
    for number in np.flatnonzero(of_mixed.kinds == MixKind.CUTMIX).tolist():
        rows, columns = cut_pixels(of_mixed.cuts[number].tolist(), size)
        crops[int(places[number]), :, rows, columns] = partners[number, :, rows, columns]
    return crops


def partners_of(mix: RecordedMix) -> RecordedMix:
    """Of the J crops alone that are mixed, in their order."""
    flat = mix.flat()
    return flat.at(np.flatnonzero(flat.kinds))


def cut_pixels(cut: list[int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a crop of ``size`` (h, w) that CutMix's box stands for.

    ``cut`` is top, left, height, width in 1/256 of the sides.
    """
    top, left, height, width = cut
    edges = [(top, top + height, size[0]), (left, left + width, size[1])]
    rows, columns = (slice(_pixel(start, side), _pixel(end, side)) for start, end, side in edges)
    return rows, columns


def _pixel(edge: int, side: int) -> int:
    return (edge * side + CUT_GRID // 2) // CUT_GRID


def _mixup(crops: Tensor, partners: Tensor, places: NDArray[np.intp], mix: RecordedMix) -> None:
    numbers = np.flatnonzero(mix.kinds == MixKind.MIXUP)
    if not len(numbers):
        return
    shares = torch.from_numpy(np.rint(mix.shares[numbers] * SHARE_GRID).astype(np.int32))
    shares = shares[:, None, None, None].to(crops.device, non_blocking=True)
    own, other = (
        torch.from_numpy(each).to(crops.device, non_blocking=True)
        for each in (places[numbers], numbers)
    )
    step = max(1, _AT_ONCE // crops[0].numel())
    for start in range(0, len(numbers), step):
        cut = slice(start, start + step)
        share, to = shares[cut], own[cut]
        total = crops[to].int().mul_(share)
        total += partners[other[cut]].int().mul_(SHARE_GRID - share)
        crops[to] = (total.add_(SHARE_GRID // 2) >> SHARE_BITS).byte()

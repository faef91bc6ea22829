"""Replaying recorded augmentation: each operation is torchvision's and PIL's, crop by crop."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from stages.shared.recorded import replay
from store.batch import RecordedOps
from store.operations import Operation

SIZE = (40, 48)
PLAIN = (Operation.NONE, Operation.AUTOCONTRAST, Operation.EQUALIZE, Operation.INVERT)
LEVELS: dict[Operation, list[float]] = {
    Operation.BRIGHTNESS: [0.0, 0.3, 1.0, 1.7],
    Operation.CONTRAST: [0.0, 0.3, 1.0, 1.7],
    Operation.SATURATION: [0.0, 0.3, 1.0, 1.7],
    Operation.HUE: [-0.5, -0.1, 0.0, 0.25, 0.5],
    Operation.SHARPNESS: [0.0, 0.3, 1.0, 1.7],
    Operation.POSTERIZE: [0, 1, 4, 8],
    Operation.SOLARIZE: [0, 64, 128.5, 255],
    Operation.ROTATE: [-30, -7.5, 0, 15, 90],
    Operation.SHEAR_X: [-0.3, 0, 0.1, 0.25],
    Operation.SHEAR_Y: [-0.3, 0, 0.1, 0.25],
    Operation.TRANSLATE_X: [-1.5, -0.25, 0, 0.5],
    Operation.TRANSLATE_Y: [-1.5, -0.25, 0, 0.5],
    **{op: [0.0] for op in PLAIN},
}
CASES = [(op, level) for op in Operation for level in LEVELS[op]]


def photographs(count: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    """Smooth colours with some noise, channels last, as the loader has them."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand((count, 3, 5, 5), generator=generator) * 200 + 20
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(10, 240)
    pixels = smooth + torch.randint(0, 12, (count, 3, *size), generator=generator)
    return pixels.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def ops_of(*crops: list[tuple[int, float]]) -> RecordedOps:
    """One list of (code, level) a crop, all of one length."""
    values = np.array(crops, np.float64).reshape(len(crops), -1, 2)
    return RecordedOps(values[..., 0].astype(np.uint8), values[..., 1].astype(np.float32))


def torchvision(op: Operation, level: float, crop: Tensor) -> Tensor:
    bilinear: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR}
    affine: dict[str, Any] = {"angle": 0.0, "scale": 1.0, **bilinear}
    slope, (height, width) = math.degrees(math.atan(level)), crop.shape[1:]
    calls: dict[Operation, Callable[[], Tensor]] = {
        Operation.NONE: lambda: crop,
        Operation.BRIGHTNESS: lambda: functional.adjust_brightness(crop, level),
        Operation.CONTRAST: lambda: functional.adjust_contrast(crop, level),
        Operation.SATURATION: lambda: functional.adjust_saturation(crop, level),
        Operation.HUE: lambda: functional.adjust_hue(crop, level),
        Operation.SHARPNESS: lambda: functional.adjust_sharpness(crop, level),
        Operation.POSTERIZE: lambda: functional.posterize(crop, int(level)),
        Operation.SOLARIZE: lambda: functional.solarize(crop, level),
        Operation.AUTOCONTRAST: lambda: functional.autocontrast(crop),
        Operation.EQUALIZE: lambda: functional.equalize(crop),
        Operation.INVERT: lambda: functional.invert(crop),
        Operation.ROTATE: lambda: functional.rotate(crop, level, **bilinear),
        Operation.SHEAR_X: lambda: functional.affine(
            crop, translate=[0, 0], shear=[slope, 0.0], center=[0, 0], **affine
        ),
        Operation.SHEAR_Y: lambda: functional.affine(
            crop, translate=[0, 0], shear=[0.0, slope], center=[0, 0], **affine
        ),
        Operation.TRANSLATE_X: lambda: functional.affine(
            crop, translate=[round(level * width), 0], shear=[0.0, 0.0], **affine
        ),
        Operation.TRANSLATE_Y: lambda: functional.affine(
            crop, translate=[0, round(level * height)], shear=[0.0, 0.0], **affine
        ),
    }
    return calls[op]()


def pil(op: Operation, level: float, image: Image.Image) -> Image.Image:
    """Undone where PIL has no such operation, or resamples by another rule at the edges."""
    matrices = {
        Operation.SHEAR_X: (1, level, 0, 0, 1, 0),
        Operation.SHEAR_Y: (1, 0, 0, level, 1, 0),
        Operation.TRANSLATE_X: (1, 0, -round(level * image.width), 0, 1, 0),
        Operation.TRANSLATE_Y: (1, 0, 0, 0, 1, -round(level * image.height)),
    }
    enhancers = {
        Operation.BRIGHTNESS: ImageEnhance.Brightness,
        Operation.CONTRAST: ImageEnhance.Contrast,
        Operation.SATURATION: ImageEnhance.Color,
        Operation.SHARPNESS: ImageEnhance.Sharpness,
    }
    if op in matrices:
        affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return image.transform(image.size, affine, matrices[op], bilinear)
    if op in enhancers:
        return enhancers[op](image).enhance(level)
    dropped = 8 - int(level) if op == Operation.POSTERIZE else 0
    calls: dict[Operation, Callable[[], Image.Image]] = {
        Operation.NONE: lambda: image,
        Operation.POSTERIZE: lambda: image.point(lambda value: value >> dropped << dropped),
        Operation.SOLARIZE: lambda: ImageOps.solarize(image, math.ceil(level)),
        Operation.AUTOCONTRAST: lambda: ImageOps.autocontrast(image),
        Operation.EQUALIZE: lambda: ImageOps.equalize(image),
        Operation.INVERT: lambda: ImageChops.invert(image),
        Operation.ROTATE: lambda: image.rotate(level, Image.Resampling.BILINEAR),
        Operation.HUE: lambda: _turned(image, level),
    }
    return calls[op]()


def _turned(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int64) + round(turns * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


@pytest.mark.parametrize(("op", "level"), CASES, ids=lambda each: str(getattr(each, "name", each)))
def test_each_operation_is_torchvisions_and_pils(op: Operation, level: float) -> None:
    crops, step = photographs(), (int(op), level)
    found = replay(crops, ops_of(*[[step]] * len(crops)))
    level = float(np.float32(level))
    for before, after in zip(crops, found, strict=True):
        by_torch = torchvision(op, level, before.contiguous()).int()
        error_of_torch = (after.int() - by_torch).abs()
        if op == Operation.CONTRAST:  # the mean grey is exact here and rounded there
            assert error_of_torch.max() <= 1
            assert error_of_torch.float().mean() < 0.01
        else:
            assert not error_of_torch.any()
        image = Image.fromarray(before.permute(1, 2, 0).contiguous().numpy())
        by_pil = np.asarray(pil(op, level, image)).astype(np.int64)
        error = np.abs(after.permute(1, 2, 0).numpy().astype(np.int64) - by_pil)
        if op in (Operation.ROTATE, Operation.SHEAR_X, Operation.SHEAR_Y):
            error = np.sort(error, axis=None)[: -error.size // 10]  # PIL's edges do not fade
        assert error.max() <= (12 if op == Operation.HUE else 3)  # PIL's hue has 8 bits


def test_every_operation_has_levels_here() -> None:
    assert set(LEVELS) == set(Operation)


def test_crops_without_operations_keep_every_bit() -> None:
    crops, rng = photographs(4), np.random.default_rng(0)
    none = RecordedOps(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.float32))
    assert replay(crops, none) is crops
    codes = np.zeros((2, 2, 3), np.uint8)
    codes[0, 1, 2] = Operation.INVERT
    noise = rng.normal(size=codes.shape).astype(np.float32)  # a level says nothing beside code 0
    found = replay(crops, RecordedOps(codes, noise))
    assert torch.equal(found[[0, 2, 3]], crops[[0, 2, 3]])
    assert torch.equal(found[1], 255 - crops[1])
    assert found.is_contiguous(memory_format=torch.channels_last)


@st.composite
def sequences(draw: st.DrawFn) -> list[tuple[int, float]]:
    codes = draw(st.lists(st.sampled_from(list(Operation)), min_size=3, max_size=3))
    return [(op, draw(st.sampled_from(LEVELS[op]))) for op in codes]


@given(steps=st.lists(sequences(), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_operations_act_in_order_on_each_crop_alone(steps: list[list[tuple[int, float]]]) -> None:
    crops = photographs()
    before = crops.clone()
    found = replay(crops, ops_of(*steps))
    assert torch.equal(crops, before)
    for place, sequence in enumerate(steps):
        alone = crops[place : place + 1].contiguous()
        for step in sequence:
            alone = replay(alone, ops_of([step]))
        assert torch.equal(found[place], alone[0])
    out = torch.empty_like(crops)
    assert replay(crops, ops_of(*steps), out=out) is out
    assert torch.equal(out, found)
    assert replay(crops, ops_of(*steps), out=crops) is crops
    assert torch.equal(crops, found)


def test_number_of_threads_changes_no_pixel() -> None:
    crops = photographs(1, (300, 300))
    ops = ops_of([(op, LEVELS[op][1]) for op in Operation if op not in PLAIN])
    found = replay(crops, ops)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(replay(crops, ops), found)
    finally:
        torch.set_num_threads(before)


def test_a_shift_is_the_same_share_of_any_size() -> None:
    for side in (40, 80):
        moved = replay(photographs(1, (side, side)), ops_of([(Operation.TRANSLATE_X, 0.25)]))
        assert not moved[..., : side // 4].any()
        assert moved[..., side // 4 :].amin() > 0

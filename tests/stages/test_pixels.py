"""Crops are those of Pillow and torchvision, whatever the box; evaluation is timm's."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor
from torchvision.transforms import functional as vision

from stages.shared import pixels
from stages.shared.pixels import (
    CropMode,
    Interpolation,
    crop_resize,
    evaluation_crop,
    normalise,
    resize,
)

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def photograph(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth shading, sharp edges and noise: what photographs are made of; (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 20 + 2, width // 20 + 2, 3), dtype=np.uint8)
    shading = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(shading).astype(np.int64)
    for _ in range(20):
        top, left = rng.integers(0, height), rng.integers(0, width)
        end_row, end_column = top + rng.integers(1, 60), left + rng.integers(1, 60)
        pixels[top:end_row, left:end_column] = rng.integers(0, 256, 3)
    pixels += rng.integers(-12, 13, pixels.shape)
    result: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return result


def by_pillow(
    image: NDArray[np.uint8], box: NDArray[np.int64], flip: bool, size: tuple[int, int], how: str
) -> NDArray[np.int64]:
    """Crop, resize and flip one box with Pillow; (3, h, w)."""
    top, left, height, width = (int(value) for value in box)
    crop = Image.fromarray(image).crop((left, top, left + width, top + height))
    resized = crop.resize((size[1], size[0]), RESAMPLING[how])
    if flip:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(resized).astype(np.int64).transpose(2, 0, 1)


def random_boxes(rng: np.random.Generator, height: int, width: int, m: int) -> NDArray[np.int64]:
    heights, widths = rng.integers(1, height + 1, m), rng.integers(1, width + 1, m)
    tops, lefts = rng.integers(0, height - heights + 1), rng.integers(0, width - widths + 1)
    boxes: NDArray[np.int64] = np.stack([tops, lefts, heights, widths], axis=1)
    return boxes


@pytest.mark.parametrize(("how", "levels"), [("bilinear", 2), ("bicubic", 8)])
def test_crops_are_pillows(how: Interpolation, levels: int) -> None:
    rng = np.random.default_rng(1)
    differences = []
    for seed, (height, width) in enumerate([(375, 500), (500, 333), (120, 90), (1000, 700)]):
        image = photograph(height, width, seed)
        for size in [(224, 224), (96, 160), (33, 32)]:
            boxes = random_boxes(rng, height, width, 4)
            flips = rng.random(4) < 0.5
            ours = crop_resize(image, boxes, flips, size, how).numpy().astype(np.int64)
            theirs = [
                by_pillow(image, box, flip, size, how)
                for box, flip in zip(boxes, flips, strict=True)
            ]
            differences.append(np.abs(ours - np.stack(theirs)).ravel())
    difference = np.concatenate(differences)
    assert (difference <= levels).mean() >= 0.9999
    assert difference.mean() < 0.1, "a shift of half a pixel would show here"


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (7, 5), (3, 5000)])
@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_tiny_and_thin_images(shape: tuple[int, int], how: Interpolation) -> None:
    image = photograph(*shape)
    height, width = shape
    boxes = np.array([[0, 0, height, width], [height - 1, width - 1, 1, 1], [0, 0, 1, width]])
    flips = np.array([True, False, True])
    ours = crop_resize(image, boxes, flips, (32, 24), how).numpy().astype(np.int64)
    theirs = np.stack(
        [by_pillow(image, b, f, (32, 24), how) for b, f in zip(boxes, flips, strict=True)]
    )
    assert np.abs(ours - theirs).max() <= (2 if how == "bilinear" else 8)


def test_a_box_of_one_pixel_is_its_colour() -> None:
    image = photograph(40, 50)
    (crop,) = crop_resize(image, [[13, 17, 1, 1]], [True], (8, 9))
    np.testing.assert_array_equal(crop, np.broadcast_to(image[13, 17][:, None, None], (3, 8, 9)))


def test_a_box_of_the_asked_size_is_copied_exactly() -> None:
    image = photograph(40, 50)
    boxes = [[3, 7, 32, 30], [3, 7, 32, 30], [0, 0, 32, 30]]
    crops = crop_resize(image, boxes, [False, True, False], (32, 30), "bicubic")
    expected = image[3:35, 7:37].transpose(2, 0, 1)
    np.testing.assert_array_equal(crops[0], expected)
    np.testing.assert_array_equal(crops[1], expected[:, :, ::-1])
    np.testing.assert_array_equal(crops[2], image[:32, :30].transpose(2, 0, 1))


@pytest.mark.parametrize("box", [(-4, -4, 32, 32), (4, 2, 32, 32), (-4, 4, 40, 40), (0, 0, 32, 33)])
def test_what_leaves_the_image_is_black_as_in_random_crop(box: tuple[int, int, int, int]) -> None:
    image = photograph(32, 32)
    top, left, height, width = box
    padded = np.pad(image, ((16, 16), (16, 16), (0, 0)))
    inside = padded[top + 16 : top + 16 + height, left + 16 : left + 16 + width]
    (same_size,) = crop_resize(image, [box], [False], (height, width))
    np.testing.assert_array_equal(same_size, inside.transpose(2, 0, 1))
    theirs = vision.crop(Image.fromarray(image), *box)
    np.testing.assert_array_equal(same_size, np.asarray(theirs).transpose(2, 0, 1))
    resized = crop_resize(image, [box], [True], (24, 20))
    expected = crop_resize(np.ascontiguousarray(inside), [[0, 0, height, width]], [True], (24, 20))
    assert torch.equal(resized, expected)


@pytest.mark.parametrize("box", [(-9, 0, 8, 8), (32, 0, 8, 8), (0, -20, 8, 8), (50, 50, 1, 1)])
def test_a_box_wholly_outside_is_black(box: tuple[int, int, int, int]) -> None:
    crops = crop_resize(np.full((32, 32, 3), 255, np.uint8), [box], [False], (8, 8))
    assert not crops.any()


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_writes_into_a_slice_of_a_batch(memory_format: torch.memory_format) -> None:
    image = photograph(60, 70)
    boxes = random_boxes(np.random.default_rng(0), 60, 70, 3)
    flips = [True, False, True]
    batch = torch.full((8, 3, 20, 24), 7, dtype=torch.uint8).contiguous(memory_format=memory_format)
    returned = crop_resize(image, boxes, flips, (20, 24), out=batch[2:5])
    assert returned.data_ptr() == batch[2:5].data_ptr()
    assert torch.equal(batch[2:5], crop_resize(image, boxes, flips, (20, 24)))
    assert (batch[:2] == 7).all()
    assert (batch[5:] == 7).all()


def test_an_out_of_another_shape_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="one place a crop"):
        crop_resize(photograph(9, 9), [[0, 0, 9, 9]], [False], (4, 4), out=torch.empty(2, 3, 4, 4))


def test_arrays_tensors_and_strided_views_are_the_same_image() -> None:
    image = photograph(60, 70)
    strided = np.zeros((60, 140, 3), np.uint8)[:, ::2]
    strided[:] = image
    boxes, flips = [[3, 4, 50, 60]], [False]
    expected = crop_resize(image, boxes, flips, (20, 20))
    assert expected.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(crop_resize(torch.from_numpy(image), boxes, flips, (20, 20)), expected)
    assert torch.equal(crop_resize(strided, boxes, flips, (20, 20)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_normalise_is_to_tensor_and_normalize(dtype: torch.dtype) -> None:
    batch = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(2, 3, 16, 32)
    batch = batch.contiguous(memory_format=torch.channels_last)
    mean, std = (0.48, 0.45, 0.4), (0.22, 0.25, 0.5)
    expected = vision.normalize(batch / 255, list(mean), list(std))
    ours = normalise(batch, mean, std, dtype)
    assert ours.dtype == dtype
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert batch.dtype == torch.uint8
    rounding = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    torch.testing.assert_close(ours.double(), expected.double(), rtol=rounding, atol=1e-5)


SHAPES = [(375, 500), (500, 375), (333, 500), (100, 99), (30, 40), (224, 224), (1, 5), (601, 37)]


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(224, 224), (32, 32), (96, 128)])
@pytest.mark.parametrize("crop_ratio", [0.875, 0.9, 1.0])
def test_evaluation_is_timms(crop_mode: CropMode, size: tuple[int, int], crop_ratio: float) -> None:
    differences = []
    for shape in SHAPES:
        transform = transforms_imagenet_eval(
            size, crop_ratio, crop_mode, interpolation="bilinear", normalize=False
        )
        image = photograph(*shape)
        theirs = transform(Image.fromarray(image))
        theirs = theirs if isinstance(theirs, Tensor) else vision.pil_to_tensor(theirs)
        if theirs.is_floating_point():
            theirs = (theirs * 255).round()
        ours = evaluation_crop(image, size, crop_ratio, "bilinear", crop_mode)
        assert ours.shape == (3, *size)
        assert ours.dtype == torch.uint8
        differences.append((ours.to(torch.int64) - theirs.to(torch.int64)).abs().flatten())
    difference = torch.cat(differences)
    assert (difference <= 2).double().mean() >= 0.9999
    assert difference.double().mean() < 0.1


@pytest.mark.parametrize("shape", [(1, 400_000), (300_000, 2), (3, 90_001)])
def test_evaluating_a_thread_of_pixels_resizes_only_its_middle(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    areas = []

    def measured(planes: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
        areas.append(size[0] * size[1])
        return resize(planes, size, interpolation)

    monkeypatch.setattr(pixels, "resize", measured)
    image = np.zeros((*shape, 3), np.uint8)
    middle = tuple(slice((side - 1) // 2, side // 2 + 1) for side in shape)
    image[middle] = 255
    crop = evaluation_crop(image, (32, 32), 0.875, "bilinear")
    assert areas[0] < 100_000, "whole, it would be half a gigapixel"
    assert crop.shape == (3, 32, 32)
    assert crop[:, 15:17, 15:17].min() > 200, "the centre stays the centre"
    assert torch.equal(crop, crop.flip(1))
    assert torch.equal(crop, crop.flip(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalised_values_do_not_depend_on_the_memory_format(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    planar = torch.from_numpy(rng.integers(0, 256, (3, 3, 9, 11), dtype=np.uint8))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    by_channel = normalise(planar, mean, std, dtype)
    by_row = normalise(planar.contiguous(memory_format=torch.channels_last), mean, std, dtype)
    assert by_row.is_contiguous(memory_format=torch.channels_last)
    assert by_row.dtype == dtype
    assert torch.equal(by_channel, by_row)
    assert normalise(planar[:0], mean, std).shape == (0, 3, 9, 11)

"""Crops that are resized where the network is are those that are resized on a CPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.shared import device_pixels
from stages.shared.device_pixels import CropTable, resize_crops
from stages.shared.pixels import Interpolation, crop_resize
from tests.stages.test_pixels import by_pillow, photograph, random_boxes

torch.set_num_threads(1)

Image = NDArray[np.uint8]
PerImage = Sequence[NDArray[Any]]
"""(m, 4) boxes or (m,) flips."""


def packed(
    images: Sequence[Image], boxes: PerImage, flips: PerImage
) -> tuple[torch.Tensor, CropTable]:
    """Images in one buffer and the table of m crops of each."""
    areas = [image.shape[0] * image.shape[1] for image in images]
    starts = np.cumsum([0, *areas])[:-1]
    shapes = [image.shape[:2] for image in images]
    per_image = [starts, [height for height, _ in shapes], [width for _, width in shapes]]
    counts = [len(each) for each in boxes]
    columns = [np.repeat(np.asarray(each, np.int64), counts) for each in per_image]
    columns += list(np.concatenate(boxes).T.astype(np.int64))
    columns.append(np.concatenate(flips).astype(np.int64))
    pixels = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images]))
    return pixels, CropTable._make(columns)


def on_cpu(
    images: Sequence[Image],
    boxes: PerImage,
    flips: PerImage,
    size: tuple[int, int],
    how: Interpolation,
) -> NDArray[np.int64]:
    parts = [
        crop_resize(image, image_boxes, image_flips, size, how)
        for image, image_boxes, image_flips in zip(images, boxes, flips, strict=True)
    ]
    return torch.cat(parts).numpy().astype(np.int64)


def some_crops(seed: int = 1, m: int = 4) -> tuple[list[Image], PerImage, PerImage]:
    rng = np.random.default_rng(seed)
    shapes = [(375, 500), (500, 333), (120, 90), (700, 400), (1, 1), (3, 900)]
    images = [photograph(*shape, number) for number, shape in enumerate(shapes)]
    boxes = [random_boxes(rng, *shape, m) for shape in shapes]
    return images, boxes, [rng.random(m) < 0.5 for _ in shapes]


@pytest.mark.parametrize("size", [(224, 224), (96, 160), (33, 32)])
def test_bilinear_crops_are_pillows(size: tuple[int, int]) -> None:
    images, boxes, flips = some_crops()
    ours = resize_crops(*packed(images, boxes, flips), size, "bilinear")
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous(memory_format=torch.channels_last)
    theirs = [
        by_pillow(image, box, flip, size, "bilinear")
        for image, image_boxes, image_flips in zip(images, boxes, flips, strict=True)
        for box, flip in zip(image_boxes, image_flips, strict=True)
    ]
    difference = np.abs(ours.numpy().astype(np.int64) - np.stack(theirs))
    assert difference.max() <= 1
    assert difference.mean() < 0.1, "a shift of half a pixel would show here"


@pytest.mark.parametrize(("how", "levels"), [("bilinear", 1), ("bicubic", 2)])
def test_crops_are_those_of_the_cpu(how: Interpolation, levels: int) -> None:
    images, boxes, flips = some_crops(seed=2)
    ours = resize_crops(*packed(images, boxes, flips), (64, 48), how).numpy().astype(np.int64)
    difference = np.abs(ours - on_cpu(images, boxes, flips, (64, 48), how))
    assert difference.max() <= levels
    assert (difference == 0).mean() > 0.99


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    how=st.sampled_from(["bilinear", "bicubic"]),
    group=st.sampled_from([1, 300, 5000, 2**22]),
)
def test_any_boxes_of_any_images(
    seed: int, size: tuple[int, int], how: Interpolation, group: int
) -> None:
    """Boxes may leave their images; groups and strips of any size change nothing."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(1, 70, (4, 2)).tolist()
    images = [photograph(height, width, seed + 1) for height, width in shapes]
    boxes = []
    for height, width in shapes:
        tops, lefts = rng.integers(-height, height, 3), rng.integers(-width, width, 3)
        sides = rng.integers(1, 2 * height + 1, 3), rng.integers(1, 2 * width + 1, 3)
        boxes.append(np.stack([tops, lefts, *sides], axis=1))
    flips = [rng.random(3) < 0.5 for _ in images]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_pixels, "_GROUP_PIXELS", group)
        ours = resize_crops(*packed(images, boxes, flips), size, how).numpy().astype(np.int64)
    theirs = on_cpu(images, boxes, flips, size, how)
    # The CPU kernel rounds its weights to a few bits: with many of them that adds up.
    assert np.abs(ours - theirs).max() <= 3
    assert np.abs(ours - theirs).mean() < 0.1


def test_a_box_of_the_asked_size_is_copied_exactly() -> None:
    image = photograph(40, 50)
    boxes, flips = [np.array([[3, 7, 32, 30], [3, 7, 32, 30]])], [np.array([False, True])]
    for how in ("bilinear", "bicubic"):
        plain, mirrored = resize_crops(*packed([image], boxes, flips), (32, 30), how)
        expected = image[3:35, 7:37].transpose(2, 0, 1)
        np.testing.assert_array_equal(plain, expected)
        np.testing.assert_array_equal(mirrored, expected[:, :, ::-1])


def test_what_leaves_the_image_is_black() -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    boxes = [np.array([[-8, -8, 32, 32], [8, 4, 32, 32], [50, 50, 9, 9], [0, -20, 8, 8]])]
    made = resize_crops(*packed([white], boxes, [np.zeros(4, np.bool_)]), (32, 32), "bilinear")
    assert (made[0, :, 8:, 8:] == 255).all()
    assert not made[0, :, :8].any()
    assert not made[0, :, :, :8].any()
    assert (made[1, :, :24, :28] == 255).all()
    assert not made[1, :, 24:].any()
    assert not made[1, :, :, 28:].any()
    assert not made[2:].any()


def test_pixels_of_other_images_never_show() -> None:
    """A box that leaves the first of two images does not run on into the second."""
    images = [np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 255, np.uint8)]
    boxes = [np.array([[10, 10, 30, 30]]), np.array([[0, 0, 20, 20]])]
    flips = [np.array([False]), np.array([False])]
    first, second = resize_crops(*packed(images, boxes, flips), (16, 16), "bicubic")
    assert not first.any()
    assert (second == 255).all()


def test_mixed_precision_does_not_reach_the_resize() -> None:
    images, boxes, flips = some_crops(seed=3, m=1)
    given_crops = packed(images, boxes, flips)
    expected = resize_crops(*given_crops, (32, 32), "bilinear")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resize_crops(*given_crops, (32, 32), "bilinear"), expected)


def test_memory_is_bounded_by_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 30_000
    monkeypatch.setattr(device_pixels, "_GROUP_PIXELS", limit)
    strip, sizes = device_pixels._strip, []

    def noting(*arguments: Any) -> torch.Tensor:
        planes = strip(*arguments)
        sizes.append(planes.numel())
        return planes

    monkeypatch.setattr(device_pixels, "_strip", noting)
    images, boxes, flips = some_crops(seed=4)
    whole = photograph(600, 500)  # ten times the limit: read in strips
    images.append(whole)
    boxes, flips = [*boxes, np.array([[0, 0, 600, 500]])], [*flips, np.array([True])]
    resize_crops(*packed(images, boxes, flips), (32, 32), "bilinear")
    assert limit < max(sizes) <= 3 * limit
    sizes.clear()
    boxes = [np.tile([3, 4, 10, 12], (200, 1))]
    resize_crops(*packed([whole], boxes, [np.zeros(200, np.bool_)]), (8, 8), "bilinear")
    assert len(sizes) == 1, "small crops are resized together"
    sizes.clear()
    resize_crops(*packed([whole], boxes, [np.zeros(200, np.bool_)]), (100, 100), "bilinear")
    assert len(sizes) == 200 // 3 + 1, "what comes out counts too"

"""Boxes, flips and training draws: what they may depend on, and how they are distributed."""

import json
import math
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomCrop, RandomResizedCrop

from store.crop_plan import WORDS_PER_BOX, CropPlan, boxes_from_words
from store.random import (
    Purpose,
    draw_boxes,
    draw_flips,
    draw_kept,
    draw_words,
    path_hash,
    path_hashes,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "random.json"
PLANS = [
    CropPlan(),
    CropPlan(scale=(0.08, 0.936)),
    CropPlan(scale=(0.91, 1.0), ratio=(2.0, 3.0)),
    CropPlan("random_crop", size=32, padding=4),
    CropPlan("random_crop", size=20, padding=0),
]
WORDS = st.integers(0, 2**64 - 1)
SIDES = st.integers(1, 700)
IMAGES = st.lists(st.tuples(WORDS, SIDES, SIDES), min_size=1, max_size=6)


def columns(images: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hashes, heights, widths = zip(*images, strict=True)
    return np.array(hashes, dtype=np.uint64), np.array(heights), np.array(widths)


def test_hash_is_xxh3_of_utf8() -> None:
    assert path_hash("") == 0x2D06800538D394C2
    assert path_hashes(["", "a/é.jpg"]).tolist() == [path_hash(""), path_hash("a/é.jpg")]


@given(seed=WORDS, image_hash=WORDS, stream=WORDS, purpose=st.sampled_from(Purpose))
def test_words_are_those_of_a_fresh_philox(
    seed: int, image_hash: int, stream: int, purpose: Purpose
) -> None:
    hashes = np.array([7, image_hash], dtype=np.uint64)
    words = draw_words(seed, hashes, 7, purpose=purpose, stream=stream)
    fresh = np.random.Philox(
        key=np.array([seed, image_hash], dtype=np.uint64),
        counter=np.array([0, 0, stream, purpose], dtype=np.uint64),
    )
    assert words[1].tolist() == fresh.random_raw(7).tolist()


def test_purposes_streams_and_seeds_share_nothing() -> None:
    hashes = path_hashes(["a"])
    rows = [draw_words(0, hashes, 8, purpose=purpose) for purpose in Purpose]
    rows += [draw_words(0, hashes, 8, purpose=Purpose.BOX, stream=1)]
    rows += [draw_words(1, hashes, 8, purpose=Purpose.BOX)]
    assert len(np.unique(np.concatenate(rows))) == 8 * len(rows)


@given(images=IMAGES, plan=st.sampled_from(PLANS), fewer=st.integers(0, 9), seed=WORDS)
def test_more_crops_keep_the_old_ones(
    images: list[tuple[int, int, int]], plan: CropPlan, fewer: int, seed: int
) -> None:
    hashes, heights, widths = columns(images)
    many = draw_boxes(seed, hashes, heights, widths, 10, plan)
    few = draw_boxes(seed, hashes, heights, widths, fewer, plan)
    np.testing.assert_array_equal(few, many[:, :fewer])
    flips = draw_flips(seed, hashes, 10, 0.5)
    np.testing.assert_array_equal(draw_flips(seed, hashes, fewer, 0.5), flips[:, :fewer])


@given(images=IMAGES, plan=st.sampled_from(PLANS), data=st.data())
def test_other_images_and_their_order_never_matter(
    images: list[tuple[int, int, int]], plan: CropPlan, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(images) - 1), min_size=1, max_size=8))
    hashes, heights, widths = columns(images)
    boxes = draw_boxes(3, hashes, heights, widths, 4, plan)
    flips = draw_flips(3, hashes, 4, 0.3)
    some = draw_boxes(3, hashes[chosen], heights[chosen], widths[chosen], 4, plan)
    np.testing.assert_array_equal(some, boxes[chosen])
    np.testing.assert_array_equal(draw_flips(3, hashes[chosen], 4, 0.3), flips[chosen])


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = path_hashes(f"{number}" for number in range(50))
    sides = np.full(50, 100)
    whole = draw_boxes(0, hashes, sides, sides, 7, CropPlan())
    kept = draw_kept(0, hashes, sides, sides, 9)
    monkeypatch.setattr("store.random._CROPS_A_CHUNK", 20)
    monkeypatch.setattr("store.random._PLACES_A_CHUNK", 20)
    np.testing.assert_array_equal(draw_boxes(0, hashes, sides, sides, 7, CropPlan()), whole)
    np.testing.assert_array_equal(draw_kept(0, hashes, sides, sides, 9), kept)


def slow_box(plan: CropPlan, words: list[int], height: int, width: int) -> list[int]:
    """torchvision's get_params in plain numbers, fed from random words."""
    position = (words[10] >> 32, words[10] & 0xFFFFFFFF)
    for word in words[:10]:
        share, stretch = (word >> 32) / 2**32, (word & 0xFFFFFFFF) / 2**32
        target = height * width * (plan.scale[0] + share * (plan.scale[1] - plan.scale[0]))
        low, high = math.log(plan.ratio[0]), math.log(plan.ratio[1])
        ratio = math.exp(low + stretch * (high - low))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = position[0] * (height - h + 1) >> 32
            return [top, position[1] * (width - w + 1) >> 32, h, w]
    w, h = width, height
    if width / height < plan.ratio[0]:
        h = max(1, round(w / plan.ratio[0]))
    elif width / height > plan.ratio[1]:
        w = max(1, round(h * plan.ratio[1]))
    return [(height - h) // 2, (width - w) // 2, h, w]


@given(
    words=st.lists(WORDS, min_size=WORDS_PER_BOX, max_size=WORDS_PER_BOX),
    height=SIDES,
    width=SIDES,
    plan=st.sampled_from(PLANS[:3]),
)
@settings(max_examples=300)
def test_vectorised_boxes_equal_slow_ones(
    words: list[int], height: int, width: int, plan: CropPlan
) -> None:
    fast = boxes_from_words(
        plan, np.array([words], dtype=np.uint64), np.array([height]), np.array([width])
    )
    assert fast[0].tolist() == slow_box(plan, words, height, width)


@given(images=IMAGES, plan=st.sampled_from(PLANS[:3]))
def test_resized_crops_lie_in_the_image(images: list[tuple[int, int, int]], plan: CropPlan) -> None:
    hashes, heights, widths = columns(images)
    top, left, height, width = np.moveaxis(draw_boxes(1, hashes, heights, widths, 20, plan), -1, 0)
    assert (top >= 0).all() and (left >= 0).all()
    assert (height >= 1).all() and (width >= 1).all()
    assert (top + height <= heights[:, None]).all() and (left + width <= widths[:, None]).all()


@given(height=SIDES, width=SIDES, size=st.integers(1, 64), padding=st.integers(0, 8))
def test_padded_crops_lie_in_the_padded_image_or_are_centred(
    height: int, width: int, size: int, padding: int
) -> None:
    plan = CropPlan("random_crop", size=size, padding=padding)
    boxes = draw_boxes(2, path_hashes(["x"]), np.array([height]), np.array([width]), 30, plan)
    assert (boxes[0, :, 2:] == size).all()
    for start, extent in ((boxes[0, :, 0], height), (boxes[0, :, 1], width)):
        if extent + 2 * padding < size:
            assert (start == (extent - size) // 2).all()
        else:
            assert start.min() >= -padding
            assert start.max() + size <= extent + padding


def test_padded_crops_reach_every_place_alike() -> None:
    plan = CropPlan("random_crop", size=32, padding=4)
    side = np.array([32])
    boxes = draw_boxes(5, path_hashes(["x"]), side, side, 9000, plan)[0]
    for column in (0, 1):
        counts = np.bincount(boxes[:, column] + 4, minlength=9)
        assert len(counts) == 9
        assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # chi-square, 8 df, p = 0.0005
    torch.manual_seed(0)
    padded = torch.zeros(3, 40, 40)
    draw: Callable[..., tuple[int, int, int, int]] = RandomCrop.get_params
    theirs = np.array([draw(padded, (32, 32))[0] for _ in range(500)])
    assert set(theirs - 4) == set(boxes[:, 0])


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 120)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    num_theirs, num_ours = 4000, 40_000
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    scale, ratio = [0.08, 1.0], [3 / 4, 4 / 3]
    theirs = np.array(
        [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(num_theirs)]
    )
    ours = draw_boxes(
        0, path_hashes(["x"]), np.array([height]), np.array([width]), num_ours, CropPlan()
    )[0]
    statistics: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: (box[:, 2] + box[:, 0] == height).astype(float),
    ]
    for statistic in statistics:
        a, b = np.sort(statistic(theirs)), np.sort(statistic(ours))
        points = np.union1d(a, b)
        distance = np.abs(
            np.searchsorted(a, points, side="right") / len(a)
            - np.searchsorted(b, points, side="right") / len(b)
        ).max()
        # Kolmogorov-Smirnov at p = 0.001.
        assert distance < 1.95 * math.sqrt(1 / num_theirs + 1 / num_ours)


def test_flips_have_their_probability() -> None:
    hashes = path_hashes(f"{number}" for number in range(20))
    assert not draw_flips(0, hashes, 100, 0.0).any()
    assert draw_flips(0, hashes, 100, 1.0).all()
    assert abs(draw_flips(0, hashes, 1000, 0.25).mean() - 0.25) < 0.012


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"kind": "grid"}, "kind is 'grid'"),
        ({"scale": (0.5, 0.2)}, "scale is"),
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"ratio": (-1.0, 1.0)}, "ratio is"),
        ({"size": 0}, "size is 0"),
        ({"padding": -1}, "padding is -1"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, object], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        CropPlan(**changes)  # type: ignore[arg-type]


@given(num_kept=st.integers(1, 300), cycle=st.integers(0, 10**6), image=WORDS, seed=WORDS)
def test_aligned_places_hold_each_kept_crop_once(
    num_kept: int, cycle: int, image: int, seed: int
) -> None:
    hashes = np.array([image], dtype=np.uint64)
    start = np.array([cycle * num_kept])
    drawn = draw_kept(seed, hashes, np.array([num_kept]), start, num_kept)
    assert sorted(drawn[0].tolist()) == list(range(num_kept))


@given(
    num_kept=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    start=st.integers(0, 500),
    m=st.integers(1, 30),
    split=st.integers(0, 30),
)
def test_places_form_one_sequence_whatever_the_batches(
    num_kept: list[int], start: int, m: int, split: int
) -> None:
    kept = np.array(num_kept)
    hashes = path_hashes(f"{number}" for number in range(len(kept)))
    position = start + np.arange(len(kept))
    whole = draw_kept(9, hashes, kept, position, m)
    assert ((whole >= 0) & (whole < kept[:, None])).all()
    first, rest = min(split, m), max(m - split, 0)
    parts = [
        draw_kept(9, hashes[::-1], kept[::-1], position[::-1], first)[::-1],
        draw_kept(9, hashes, kept, position + first, rest),
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def cycles(num_kept: int, num_images: int) -> Iterator[np.ndarray]:
    hashes = path_hashes(f"{number}" for number in range(num_images))
    for cycle in range(4):
        start = np.full(num_images, cycle * num_kept)
        yield draw_kept(0, hashes, np.full(num_images, num_kept), start, num_kept)


def test_every_order_is_as_likely() -> None:
    orders = np.concatenate(list(cycles(4, 3000)))
    _, counts = np.unique(orders @ 4 ** np.arange(4), return_counts=True)
    assert len(counts) == 24
    assert ((counts - 500) ** 2 / 500).sum() < 49.7  # chi-square, 23 df, p = 0.001


def test_cycles_and_images_have_orders_of_their_own() -> None:
    orders = np.concatenate(list(cycles(50, 20)))
    assert len(np.unique(orders, axis=0)) == 80
    same_place = [(orders[i] == orders[j]).sum() for i in range(80) for j in range(i)]
    assert abs(np.mean(same_place) - 1) < 0.1  # two random orders agree in one place


def test_golden_numbers() -> None:
    """Boxes in old stores must be reproducible for ever.

    If a change of the draws is wanted, raise the sample stage's REVISION and write `make_golden()`
    to the file with ``json.dumps(..., indent=1)``.
    """
    assert make_golden() == json.loads(GOLDEN.read_text())


def make_golden() -> dict[str, object]:
    hashes = path_hashes(["n01440764/n01440764_18.JPEG", "b/é.png"])
    heights, widths = np.array([375, 40]), np.array([500, 300])
    resized = draw_boxes(7, hashes, heights, widths, 3, CropPlan())
    fresh = draw_boxes(
        7, hashes, heights, widths, 3, CropPlan(), purpose=Purpose.FRESH_BOX, stream=12
    )
    padded = draw_boxes(7, hashes, heights, widths, 3, CropPlan("random_crop"))
    kept = draw_kept(7, hashes, np.array([10, 3]), np.array([8, 0]), 8)
    return {
        "hashes": hashes.tolist(),
        "purposes": {purpose.name: int(purpose) for purpose in Purpose},
        "random_resized_crop": resized.tolist(),
        "fresh": fresh.tolist(),
        "random_crop": padded.tolist(),
        "flips": draw_flips(7, hashes, 12, 0.5).astype(int).tolist(),
        "kept": kept.tolist(),
    }

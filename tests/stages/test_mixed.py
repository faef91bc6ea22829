"""Replaying recorded mixing: the same pixels wherever and with whatever they are mixed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.shared import mixed
from stages.shared.mixed import cut_pixels, mix_crops, partners_of
from store.batch import RecordedMix

U8 = NDArray[np.uint8]


def mix_of(*crops: tuple[int, float, tuple[int, int, int, int]]) -> RecordedMix:
    kinds, shares, cuts = zip(*crops, strict=True)
    count = len(crops)
    return RecordedMix(
        np.array(kinds, np.uint8),
        np.array(shares, np.float32),
        np.zeros(count, np.int32),
        np.ones((count, 4), np.int32),
        np.zeros(count, np.bool_),
        np.array(cuts, np.int16),
    )


NO_CUT = (0, 0, 0, 0)
MIX = mix_of(
    (1, 0.75, NO_CUT),
    (0, 1, NO_CUT),
    (2, 0.5, (0, 128, 256, 128)),
    (1, 1 / 1024, NO_CUT),
    (2, 1 - 30 * 40 / 65536, (100, 7, 30, 40)),
)


def by_hand(own: U8, other: U8, kind: int, share: float, cut: NDArray[np.int16]) -> U8:
    """(h, w, 3): as docs/format.md says it."""
    if kind == 1:
        blend = own.astype(np.float64) * share + other.astype(np.float64) * (1 - share)
        return np.floor(blend + 0.5).astype(np.uint8)
    top, left, height, width = cut.tolist()
    rows = [int(edge * own.shape[0] / 256 + 0.5) for edge in (top, top + height)]
    columns = [int(edge * own.shape[1] / 256 + 0.5) for edge in (left, left + width)]
    result = own.copy()
    area = (slice(*rows), slice(*columns))
    result[area] = other[area]
    return result


def pixels(count: int, size: tuple[int, int] = (17, 23), seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, *size, 3), np.uint8)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(1, 1), (17, 23), (224, 224)])
def test_as_by_hand(size: tuple[int, int]) -> None:
    own, other = pixels(5, size), pixels(4, size, seed=1)
    before = own.permute(0, 2, 3, 1).numpy().copy()
    found = mix_crops(own, other, MIX)
    assert found is own
    places = [0, 2, 3, 4]
    for number, place in enumerate(places):
        wanted = by_hand(
            before[place],
            other[number].permute(1, 2, 0).numpy(),
            int(MIX.kinds[place]),
            float(MIX.shares[place]),
            MIX.cuts[place],
        )
        np.testing.assert_array_equal(found[place].permute(1, 2, 0).numpy(), wanted)
    np.testing.assert_array_equal(found[1].permute(1, 2, 0).numpy(), before[1])


def test_halves_round_up_and_ends_are_exact() -> None:
    values = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, None, :]  # (1, 3, 1, 256)
    half = mix_crops(values.clone(), torch.zeros_like(values), mix_of((1, 0.5, NO_CUT)))
    assert half[0, 0, 0].tolist() == [(value + 1) // 2 for value in range(256)]
    for share in (0.0, 1.0):
        other = values.flip(3)
        found = mix_crops(values.clone(), other, mix_of((1, share, NO_CUT)))
        assert torch.equal(found, values if share else other)


def test_neither_batch_nor_memory_format_changes_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mix_crops(pixels(5), pixels(4, seed=1), MIX)
    planar = mix_crops(pixels(5).contiguous(), pixels(4, seed=1).contiguous(), MIX)
    assert torch.equal(planar, whole)
    own, other = pixels(5), pixels(4, seed=1)
    for start, stop, first, last in ((0, 2, 0, 1), (2, 5, 1, 4)):
        part = mix_crops(own[start:stop].clone(), other[first:last], MIX.at(slice(start, stop)))
        assert torch.equal(part, whole[start:stop])
    monkeypatch.setattr(mixed, "_AT_ONCE", 1)
    assert torch.equal(mix_crops(pixels(5), pixels(4, seed=1), MIX), whole)


@given(st.integers(0, 255), st.integers(1, 256), st.integers(1, 600))
@settings(max_examples=60, deadline=None)
def test_boxes_cover_the_same_share_at_every_size(start: int, extent: int, side: int) -> None:
    extent = min(extent, 256 - start)
    rows, columns = cut_pixels([start, start, extent, extent], (side, 2 * side))
    assert 0 <= rows.start <= rows.stop <= side
    assert abs((rows.stop - rows.start) / side - extent / 256) <= 1 / side
    assert abs((columns.stop - columns.start) / (2 * side) - extent / 256) <= 1 / (2 * side)
    whole, _ = cut_pixels([0, 0, 256, 256], (side, side))
    assert (whole.start, whole.stop) == (0, side)


def test_partners_are_those_of_mixed_crops_in_order() -> None:
    grid = MIX.reshape(1, 5)
    assert partners_of(grid).shares.tolist() == MIX.shares[[0, 2, 3, 4]].tolist()
    none = mix_of((0, 1, NO_CUT))
    own = pixels(1)
    assert torch.equal(mix_crops(own.clone(), own[:0], none), own)

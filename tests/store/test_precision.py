"""The grids of stored probabilities."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store.precision import (
    FINE,
    FINEST,
    HALF,
    NUM_STEPS,
    THIRD,
    Levels,
    Precision,
    round_maximum,
    round_probability,
)
from store.precision import float16 as round_float16

PRECISIONS = st.sampled_from(["float16", "compact"])
PROBABILITIES = st.floats(0, 1)
THRESHOLDS = ["0", "0.00001", "0.0005", "0.001", "0.015", "0.05", "0.15", "0.3", "0.575", "0.95"]
LEVELS = [THIRD, HALF, FINE, FINEST]


def cells() -> list[Decimal]:
    """Borders as the documentation has them: widths by where they begin, mirrored."""
    ends = [(0, 1, 1), (1, 2, 1), (2, 5, 3), (5, 10, 5), (10, 100, 10), (100, 2000, 100)]
    low = [n for start, stop, step in ends for n in range(start, stop, step)]
    every = [*low, *range(2000, 98001, 500), *[100_000 - n for n in reversed(low)]]
    return [Decimal(n) / 100_000 for n in every]


BORDERS = cells()


def middle(x: float) -> float:
    """The middle of the cell that x lies in, or x itself on a border; by exact arithmetic."""
    exact = [float(border) for border in BORDERS]
    place = max(n for n, border in enumerate(exact[:-1]) if border <= x)
    if exact[place] == x:
        return float(np.float32(x))
    return float(np.float32((exact[place] + exact[place + 1]) / 2))


def test_there_are_256_cells() -> None:
    assert len(BORDERS) == 257


@given(st.one_of(PROBABILITIES, PROBABILITIES.map(lambda x: 1 - x**6), st.floats(0, 0.001)))
@example(1.0)
@example(0.9999999)
@example(1e-300)
def test_a_probability_becomes_the_middle_of_its_cell(x: float) -> None:
    assert float(round_probability(x, "compact")) == middle(x)


@pytest.mark.parametrize("text", [*THRESHOLDS, "0.98", "0.985", "0.999", "0.99999"])
def test_a_border_divides_exactly(text: str) -> None:
    border = float(text)
    assert Decimal(text) in BORDERS
    assert float(round_probability(border, "compact")) == float(np.float32(border))
    assert round_probability(np.nextafter(border, 1), "compact") > border
    if border > 0:
        assert round_probability(np.nextafter(border, 0), "compact") < border


def test_many_at_once_are_rounded_as_one_by_one() -> None:
    x = np.random.default_rng(0).random((40, 50)) ** 3
    x[0] = [float(border) for border in BORDERS[100:150]]
    x[1] = 1 - x[1] ** 4
    expected = [[middle(value) for value in row] for row in x.tolist()]
    rounded = round_probability(x, "compact")
    assert rounded.dtype == np.float32
    assert rounded.tolist() == expected


@given(PROBABILITIES)
def test_float16_is_the_nearest_float16(x: float) -> None:
    assert float(round_probability(x, "float16")) == float(np.float16(x))
    assert float(round_float16(np.array(x))) == float(np.float16(x))


@given(st.lists(PROBABILITIES, min_size=2, max_size=2), PRECISIONS)
def test_rounding_keeps_order_and_settles(pair: list[float], precision: Precision) -> None:
    rounded = round_probability(np.sort(pair), precision)
    assert rounded.dtype == np.float32
    assert rounded[0] <= rounded[1]
    if precision == "float16" or not set(pair) & {float(border) for border in BORDERS}:
        np.testing.assert_array_equal(round_probability(rounded, precision), rounded)


@pytest.mark.parametrize("precision", ["float16", "compact"])
def test_nan_stays_and_shapes_stay(precision: Precision) -> None:
    assert np.isnan(round_probability(np.nan, precision))
    assert round_probability([[np.nan, 0.5], [0, 0.5]], precision).shape == (2, 2)
    assert round_probability([0, 0.5], precision).tolist() == [0, 0.5]
    assert round_probability([], precision).shape == (0,)


def test_levels_are_even_in_the_root() -> None:
    positive = FINE.values[FINE.values >= 2e-5].astype(np.float64)
    np.testing.assert_allclose(np.diff(np.sqrt(positive)), np.sqrt(0.5) / NUM_STEPS, rtol=1e-4)
    for levels in LEVELS:
        assert levels.values[0] == 0 and levels.values[-1] == 0.5
        assert (np.diff(levels.values) > 0).all()
        assert len(levels.values) <= 256 or levels is FINEST
        assert levels is FINEST or np.isin(levels.values, FINE.values).all()


@pytest.mark.parametrize("levels", LEVELS)
@given(x=st.floats(0, 0.5, width=32))
def test_levels_are_the_nearest(levels: Levels, x: float) -> None:
    rounded = float(levels.nearest(np.array([x]))[0])
    distances = np.abs(levels.values.astype(np.float64) - x)
    if 0 < x < levels.values[1]:
        assert rounded == levels.values[1]
    else:
        assert abs(rounded - x) <= distances.min() * (1 + 1e-6)
    below = float(levels.below(np.array([x]))[0])
    assert below == max((float(v) for v in levels.values if v < x), default=0.0)


@pytest.mark.parametrize("levels", LEVELS)
def test_borders_between_levels_are_compared_exactly(levels: Levels) -> None:
    borders = ((levels.values[2:] + levels.values[1:-1]) / 2).astype(np.float32)
    below = np.nextafter(borders, np.float32(0))
    np.testing.assert_array_equal(levels.nearest(borders.astype(np.float64)), levels.values[2:])
    np.testing.assert_array_equal(levels.nearest(below.astype(np.float64)), levels.values[1:-1])


def test_a_nan_of_either_sign_does_not_stop_rounding() -> None:
    assert FINE.nearest(np.array([np.nan, -np.nan])).shape == (2,)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 7, 10, 1000, 21843])
@pytest.mark.parametrize("precision", ["float16", "compact"])
def test_a_maximum_is_at_least_an_even_share(num_classes: int, precision: Precision) -> None:
    x = np.array([1 / num_classes, min(1.0, 1.0001 / num_classes), 1.0])
    rounded = round_maximum(x, precision, num_classes).astype(np.float64)
    assert (rounded[0] >= 1 / num_classes) or num_classes == 1
    assert rounded[0] <= 1 / num_classes * 1.001 + 2.5e-3
    if num_classes == 1:
        return
    far = np.array([1 / num_classes + 0.01])
    np.testing.assert_array_equal(
        round_maximum(far, precision, num_classes), round_probability(far, precision)
    )

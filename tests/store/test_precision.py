"""The grids of stored probabilities."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.precision import LEVELS, Precision, round_kept, round_probability

PRECISIONS = st.sampled_from(["float16", "compact"])
PROBABILITIES = st.floats(0, 1)


def test_levels_are_semitones_rounded_to_float32() -> None:
    exact = [Decimal(0)] + [Decimal(2) ** (-1 - Decimal(j) / 12) for j in range(254, -1, -1)]
    assert LEVELS.dtype == np.float32
    assert LEVELS.tolist() == [float(np.float32(float(value))) for value in exact]


@given(st.floats(0, 0.5, width=32))
def test_kept_probabilities_go_to_the_nearest_level(x: float) -> None:
    rounded = float(round_kept(x, "compact"))
    distances = np.abs(LEVELS.astype(np.float64) - x)
    assert abs(rounded - x) <= distances.min() * (1 + 1e-6)
    if x > LEVELS[1]:
        assert abs(rounded / x - 1) < 0.0293


def test_kept_borders_are_compared_exactly() -> None:
    borders = ((LEVELS[1:] + LEVELS[:-1]) / 2).astype(np.float32)
    np.testing.assert_array_equal(round_kept(borders, "compact"), LEVELS[1:])
    below = np.nextafter(borders, np.float32(0))
    np.testing.assert_array_equal(round_kept(below, "compact"), LEVELS[:-1])


@given(PROBABILITIES)
def test_first_probabilities_go_to_the_nearest_of_8193(x: float) -> None:
    rounded = float(round_probability(x, "compact"))
    assert rounded * 8192 == int(rounded * 8192)
    assert abs(rounded - x) <= 0.5 / 8192


@given(PROBABILITIES)
def test_float16_is_the_nearest_float16(x: float) -> None:
    assert float(round_probability(x, "float16")) == float(np.float16(x))
    assert float(round_kept(x, "float16")) == float(np.float16(x))


@given(st.lists(PROBABILITIES, min_size=2, max_size=2), PRECISIONS)
def test_rounding_keeps_order_and_settles(pair: list[float], precision: Precision) -> None:
    for rounding in (round_probability, round_kept):
        rounded = rounding(np.sort(pair), precision)
        assert rounded.dtype == np.float32
        assert rounded[0] <= rounded[1]
        np.testing.assert_array_equal(rounding(rounded, precision), rounded)


@pytest.mark.parametrize("precision", ["float16", "compact"])
def test_ends_are_exact_and_nan_stays(precision: Precision) -> None:
    assert round_probability([0, 0.5, 1], precision).tolist() == [0, 0.5, 1]
    assert np.isnan(round_probability(np.nan, precision))
    assert round_kept([0, 0.5], precision).tolist() == [0, 0.5]


def test_a_nan_of_either_sign_does_not_stop_rounding() -> None:
    assert round_kept([np.nan, -np.nan], "compact").shape == (2,)

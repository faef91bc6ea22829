"""Labels on the grids of `compact`: probabilities, in order, and close to what they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from store.compact import round_label
from store.precision import FINEST, round_maximum

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def softmax(logits: F64) -> F64:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs: F64 = shifted / shifted.sum(axis=1, keepdims=True)
    return probs


def divergence(probs: F64, stored: F32, *, has_tail: bool) -> F64:
    """Kullback-Leibler divergence of stored labels from given ones, (N,)."""
    exact, decoded = probs / 1.0, stored.astype(np.float64)
    if has_tail:
        exact = np.column_stack([exact, np.maximum(1 - exact.sum(axis=1), 0)])
        decoded = np.column_stack([decoded, 1 - decoded.sum(axis=1)])
    else:
        decoded /= decoded.sum(axis=1, keepdims=True)
    assert (decoded[exact > 1e-15] > 0).all(), "a possible class became impossible"
    terms = np.where(exact > 1e-15, exact * np.log(np.maximum(exact, 1e-300) / decoded), 0)
    total: F64 = terms.sum(axis=1)
    return total


def top(scale: float, num_classes: int, k: int, num_rows: int = 4000) -> F64:
    """Top K of softmax over normal logits, (N, K)."""
    rng = np.random.default_rng(0)
    blocks = []
    for start in range(0, num_rows, 4000):
        shape = (min(4000, num_rows - start), num_classes)
        largest = np.partition(-softmax(rng.standard_normal(shape) * scale), k - 1, axis=1)[:, :k]
        blocks.append(-np.sort(largest, axis=1))
    return np.concatenate(blocks)


def divided(probs: F64) -> F64:
    total: F64 = probs / probs.sum(axis=1, keepdims=True)
    return total


@pytest.mark.parametrize("num_classes", [5, 10, 30, 1000])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 3.0, 5.0])
def test_little_is_lost_from_flat_to_peaked(num_classes: int, scale: float) -> None:
    """At every number of classes where other levels are taken, and at those people use."""
    for k in (1, 2, 3, 5, 6, 7, 10, 20, 21):
        if k >= num_classes:
            continue
        probs = top(scale, num_classes, k, num_rows=2000)
        lost = divergence(probs, round_label(probs, num_classes, has_tail=True), has_tail=True)
        assert lost.mean() < 1.1e-4, k
        assert lost.max() < 5e-3, k
        probs = divided(probs)
        lost = divergence(probs, round_label(probs, num_classes, has_tail=False), has_tail=False)
        assert lost.mean() < 1.1e-4, k


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e-3, 0.01, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("num_classes", [2, 3, 4, 7, 10, 1000])
def test_no_class_that_is_not_stored_has_more(num_classes: int, scale: float) -> None:
    """Nor has a class the maximum that had not: the tail is an even share of what is missing."""
    for k in (1, 2, 3, 5, 6, 9):
        if k >= num_classes:
            continue
        stored = round_label(top(scale, num_classes, k, 2000), num_classes, has_tail=True)
        values = stored.astype(np.float64)
        tail = (1 - values.sum(axis=1)) / (num_classes - k)
        assert (tail <= values[:, -1] * (1 + 1e-6)).all(), k


LOGITS = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.floats(-60, 60)
)


@given(LOGITS, st.integers(1, 12), st.booleans())
def test_labels_stay_labels(logits: F64, k: int, has_tail: bool) -> None:
    num_classes = logits.shape[1] + 1
    probs = -np.sort(-softmax(logits), axis=1)[:, :k]
    if not has_tail:
        probs = divided(probs)
    stored = round_label(np.ascontiguousarray(probs), num_classes, has_tail=has_tail)
    assert stored.dtype == np.float32 and stored.shape == probs.shape
    assert (np.diff(stored, axis=1) <= 0).all()
    assert (stored >= 0).all() and (stored[:, 0] > 0).all()
    first = round_maximum(probs[:, 0], "compact", num_classes)
    np.testing.assert_array_equal(stored[:, 0], first)
    if has_tail:
        assert (stored.astype(np.float64).sum(axis=1) <= 1).all()


@given(LOGITS)
def test_rows_are_rounded_alone(logits: F64) -> None:
    probs = -np.sort(-softmax(logits), axis=1)
    together = round_label(probs, 20, has_tail=True)
    for row in range(len(probs)):
        alone = round_label(probs[row : row + 1], 20, has_tail=True)[0]
        np.testing.assert_array_equal(alone, together[row])


@given(LOGITS, st.floats(0.05, 1))
def test_a_class_outside_may_have_less_than_others(logits: F64, share: float) -> None:
    probs = -np.sort(-softmax(logits), axis=1)
    num_classes = probs.shape[1] + 3
    outside = probs[:, -1:] * share
    probs = np.hstack([probs, outside]) / (1 + outside)
    stored = round_label(probs, num_classes, has_tail=True, has_outside=True).astype(np.float64)
    assert (stored[:, -1] <= stored[:, -2]).all()
    tail = (1 - stored.sum(axis=1)) / (num_classes - probs.shape[1])
    assert (tail <= stored[:, -2] + 1e-6).all()


def test_blocks_do_not_show() -> None:
    probs = top(3.0, 50, 4, num_rows=20_000)
    shuffled = np.random.default_rng(1).permutation(len(probs))
    np.testing.assert_array_equal(
        round_label(probs[shuffled], 50, has_tail=True),
        round_label(probs, 50, has_tail=True)[shuffled],
    )


def test_a_dictionary_of_each_column_has_a_whole_byte() -> None:
    stored = round_label(top(3.0, 1000, 5, num_rows=100_000), 1000, has_tail=True)
    for column in stored.T:
        assert 128 < len(np.unique(column)) <= 256


def test_one_label_in_some_thirty_is_kept_finer() -> None:
    probs = top(3.0, 1000, 5, num_rows=20_000)
    stored = round_label(probs, 1000, has_tail=True)
    is_finer = (stored[:, 0] * 200).astype(int) % 32 == 25
    assert 0.01 < is_finer.mean() < 0.06
    lost = divergence(probs, stored, has_tail=True)
    assert lost[is_finer].mean() < 0.5 * lost[~is_finer].mean()
    assert np.isin(stored[is_finer][:, 3:], FINEST.values).mean() > 0.95


def test_a_tail_next_to_nothing_stays_next_to_nothing() -> None:
    """What is left after two large classes is known far better than the levels of the second."""
    probs = np.array([[0.6, 0.4 - rest] for rest in (0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 0.0)])
    stored = round_label(probs, 1000, has_tail=True).astype(np.float64)
    rest, kept = 1 - probs.sum(axis=1), 1 - stored.sum(axis=1)
    assert (kept > 0).all()
    assert (np.abs(kept - rest) <= np.sqrt(1e-3 * rest) + 2.0**-15).all()
    assert divergence(probs, stored.astype(np.float32), has_tail=True).max() < 1e-3


def test_more_than_one_by_rounding_is_no_error() -> None:
    probs = np.array([[0.5, 0.5001], [1.0, 1e-4], [1.0, 0.0]])
    stored = round_label(probs, 5, has_tail=True)
    assert (stored.astype(np.float64).sum(axis=1) <= 1).all()
    assert stored[2, 1] == 0


def test_rows_of_nan_do_no_harm() -> None:
    probs = top(3.0, 20, 3, num_rows=5)
    with_nan = probs.copy()
    with_nan[2] = np.nan
    np.testing.assert_array_equal(
        np.delete(round_label(with_nan, 20, has_tail=True), 2, axis=0),
        np.delete(round_label(probs, 20, has_tail=True), 2, axis=0),
    )

"""The algebra of calibrated labels, on entries and on dense labels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from store.overlay import Action, combine, combine_dense


def labels(seed: int, num_classes: int, num_entries: int) -> tuple[np.ndarray, ...]:
    """Random labels of 2 images with 3 crops, as entries: ids, weights, tail, target."""
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((2, 3, num_classes)), axis=-1)[..., :num_entries]
    mass = rng.dirichlet(np.ones(num_entries + 1), (2, 3))
    tail = (mass[..., -1] / num_classes).astype(np.float32)
    return ids, mass[..., :-1].astype(np.float32), tail, rng.integers(0, num_classes, (2, 1))


def dense_of(ids: np.ndarray, weights: np.ndarray, tail: np.ndarray, size: int) -> np.ndarray:
    dense = np.repeat(tail[..., None].astype(float), size, axis=-1)
    for image, crop, entry in np.ndindex(ids.shape):
        dense[image, crop, ids[image, crop, entry]] += weights[image, crop, entry]
    return dense


@st.composite
def shares(draw: st.DrawFn) -> tuple[float, float]:
    a = draw(st.floats(0, 1))
    return a, draw(st.floats(0, 1)) * (1 - a)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 9), shares())
def test_entries_equal_dense(
    seed: int, num_classes: int, num_entries: int, weights: tuple[float, float]
) -> None:
    num_entries = min(num_entries, num_classes)
    ids, teacher, tail, target = labels(seed, num_classes, num_entries)
    a, b = (np.full((2, 3), weight, dtype=np.float32) for weight in weights)
    entries = combine(ids, teacher, tail, target, a, b, num_classes)
    dense = dense_of(ids, teacher, tail, num_classes)
    expected = combine_dense(dense, target, a, b)
    np.testing.assert_allclose(dense_of(*entries, num_classes), expected, atol=5e-7)
    np.testing.assert_allclose(expected.sum(axis=-1), 1, atol=1e-6)
    one_hot = np.eye(num_classes)[np.broadcast_to(target, (2, 3))]
    a64, b64 = a.astype(float)[..., None], b.astype(float)[..., None]
    formula = a64 * dense + b64 * one_hot + (1 - a64 - b64) / num_classes
    np.testing.assert_allclose(expected, formula, atol=1e-7)
    assert (entries[2] >= 0).all()


@given(st.integers(0, 10**6))
def test_kept_labels_are_bit_identical(seed: int) -> None:
    ids, weights, tail, target = labels(seed, 9, 4)
    one, zero = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    out_ids, out_weights, out_tail = combine(ids, weights, tail, target, one, zero, 9)
    np.testing.assert_array_equal(out_ids[..., :-1], ids)
    np.testing.assert_array_equal(out_weights[..., :-1], weights)
    np.testing.assert_array_equal(out_tail, tail)
    assert not out_weights[..., -1].any()
    dense = dense_of(ids, weights, tail, 9)
    np.testing.assert_array_equal(combine_dense(dense, target, one, zero), dense)


def test_weights_that_sum_to_more_than_one_in_float32_leave_no_negative_tail() -> None:
    a, b = np.array([0.6], np.float32), np.array([0.4], np.float32)
    assert float(a[0]) + float(b[0]) > 1
    no_tail, y = np.zeros(1, np.float32), np.array([3])
    _, _, tail = combine(np.zeros((1, 1), int), np.ones((1, 1), np.float32), no_tail, y, a, b, 9)
    assert tail.tolist() == [0]


def test_dropped_crops_have_no_label() -> None:
    ids, weights, tail, target = labels(0, 9, 4)
    nan = np.full((2, 3), np.nan, np.float32)
    _, out_weights, out_tail = combine(ids, weights, tail, target, nan, nan, 9)
    assert np.isnan(out_weights).all()
    assert np.isnan(out_tail).all()


def test_actions_are_the_numbers_on_disk() -> None:
    assert {action.name: int(action) for action in Action} == {
        "KEEP": 0,
        "DROP": 1,
        "SOFTEN": 2,
        "REVISE": 3,
        "TRUTH": 4,
        "REJECT": 255,
    }

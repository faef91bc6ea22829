"""Stored labels: every kind gives the published numbers, and none breaks a probability's laws."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.codecs import (
    DENSE_KINDS,
    KINDS,
    Kind,
    LabelSpec,
    SparseLabels,
    encode,
    tail,
    to_dense,
    to_entries,
)
from store.dense_codecs import decode_full, encode_full
from store.precision import Precision, round_maximum

SPARSE: list[Kind] = [kind for kind in KINDS if kind not in DENSE_KINDS]
PRECISIONS: list[Precision] = ["float16", "compact"]
Predictions = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def predict(logits: np.ndarray, target: np.ndarray) -> Predictions:
    """Class ids by logit (ties: lower id), their probabilities, targets and their probabilities."""
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    ids = np.argsort(-logits, axis=1, kind="stable").astype(np.int32)
    target_prob = probs[np.arange(len(target)), target]
    return ids, np.take_along_axis(probs, ids.astype(int), axis=1), target, target_prob


@st.composite
def predictions(draw: Callable[[st.SearchStrategy[int]], int]) -> Predictions:
    """A few rows over 1 to 12 classes: flat, peaked, tied, with one class or all mass on one."""
    num_rows, num_classes = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0, 1, 4, 20, 2000]))
    logits = rng.normal(size=(num_rows, num_classes)) * scale
    if draw(st.booleans()):
        logits = np.rint(logits)  # ties
    return predict(logits, rng.integers(0, num_classes, num_rows))


@st.composite
def specs(draw: Callable[[st.SearchStrategy[object]], object]) -> LabelSpec:
    kind: Kind = draw(st.sampled_from(SPARSE))  # type: ignore[assignment]
    return LabelSpec(
        kind,
        k=draw(st.integers(1, 14)),  # type: ignore[arg-type]
        num_classes=1,
        precision=draw(st.sampled_from(PRECISIONS)),  # type: ignore[arg-type]
        include_target=kind != "hard" and bool(draw(st.booleans())),
    )


def with_classes(spec: LabelSpec, made: Predictions) -> LabelSpec:
    return LabelSpec(
        spec.kind, spec.k, made[0].shape[1], spec.precision, include_target=spec.include_target
    )


@given(specs(), predictions())
def test_decoded_labels_are_probabilities(spec: LabelSpec, made: Predictions) -> None:
    spec = with_classes(spec, made)
    labels = encode(spec, *made)
    dense = to_dense(spec, labels, made[2])
    assert dense.min() >= 0
    np.testing.assert_allclose(dense.sum(axis=1), 1, rtol=1e-12)
    assert (tail(spec, labels) >= 0).all()
    assert labels.probs.shape == (len(dense), spec.num_stored)
    assert labels.probs.dtype == np.float32


@given(specs(), predictions())
def test_the_most_probable_class_stays_so_and_order_is_kept(
    spec: LabelSpec, made: Predictions
) -> None:
    spec = with_classes(spec, made)
    labels = encode(spec, *made)
    dense = to_dense(spec, labels, made[2])
    np.testing.assert_array_equal(labels.class_ids, made[0][:, : spec.num_stored])
    assert (np.diff(labels.probs, axis=1) <= 0).all()
    first = dense[np.arange(len(dense)), labels.class_ids[:, 0]]
    assert (first >= dense.max(axis=1) * (1 - 1e-6)).all()


def test_a_flat_label_leaves_no_class_more_than_its_first() -> None:
    """The target is among the ranks, so one class is free though its own column stands there."""
    spec = LabelSpec("marginal_smoothing", 10, 11, "float16", include_target=True)
    probs = np.full((1, 11), 1 / 11)
    labels = encode(spec, np.arange(11, dtype=np.int32)[None], probs, np.array([7]), [1 / 11])
    assert tail(spec, labels)[0] <= labels.probs.max()


@given(specs(), predictions())
def test_entries_say_the_same_as_dense(spec: LabelSpec, made: Predictions) -> None:
    spec = with_classes(spec, made)
    labels = encode(spec, *made)
    ids, weights, rest = to_entries(spec, labels, made[2])
    assert ids.shape == weights.shape
    assert ids.shape[1] == spec.num_stored + spec.include_target
    np.testing.assert_array_equal(rest, tail(spec, labels))
    dense = np.repeat(rest[:, None].astype(float), spec.num_classes, axis=1)
    for entry in range(ids.shape[1]):
        np.add.at(dense, (np.arange(len(ids)), ids[:, entry]), weights[:, entry])
    np.testing.assert_allclose(dense, to_dense(spec, labels, made[2]), atol=2e-7)


@given(predictions(), st.sampled_from(PRECISIONS), st.booleans())
def test_marginal_smoothing_of_one_class_is_smoothing(
    made: Predictions, precision: Precision, include_target: bool
) -> None:
    num_classes = made[0].shape[1]
    kinds: list[tuple[Kind, int]] = [("smoothing", 7), ("marginal_smoothing", 1)]
    both = [
        LabelSpec(kind, k, num_classes, precision, include_target=include_target)
        for kind, k in kinds
    ]
    first, second = (to_dense(spec, encode(spec, *made), made[2]) for spec in both)
    np.testing.assert_array_equal(first, second)


@given(predictions(), st.integers(0, 3), st.sampled_from(["marginal_smoothing", "marginal_renorm"]))
def test_all_classes_kept_is_full(made: Predictions, more: int, kind: Kind) -> None:
    ids, probs, target, _ = made
    spec = LabelSpec(kind, ids.shape[1] + more, ids.shape[1])
    by_class = np.empty_like(probs)
    np.put_along_axis(by_class, ids.astype(int), probs, axis=1)
    full = decode_full(encode_full(by_class))
    np.testing.assert_allclose(to_dense(spec, encode(spec, *made), target), full, atol=5e-4)
    np.testing.assert_array_equal(full.argmax(axis=1), by_class.argmax(axis=1))


EXAMPLE = predict(np.log([[0.05, 0.6, 0.2, 0.1, 0.05]]), np.array([4]))


@pytest.mark.parametrize(
    ("kind", "k", "expected"),
    [
        ("hard", 3, [0, 1, 0, 0, 0]),
        ("smoothing", 3, [0.1, 0.6, 0.1, 0.1, 0.1]),
        ("marginal_smoothing", 2, [1 / 15, 0.6, 0.2, 1 / 15, 1 / 15]),
        ("marginal_renorm", 2, [0, 0.75, 0.25, 0, 0]),
        ("marginal_renorm", 1, [0, 1, 0, 0, 0]),
        ("marginal_smoothing", 9, [0.05, 0.6, 0.2, 0.1, 0.05]),
    ],
)
@pytest.mark.parametrize(("precision", "error"), [("float16", 3e-4), ("compact", 6e-3)])
def test_kinds_give_the_published_numbers(
    kind: Kind, k: int, expected: list[float], precision: Precision, error: float
) -> None:
    spec = LabelSpec(kind, k, 5, precision)
    dense = to_dense(spec, encode(spec, *EXAMPLE), EXAMPLE[2])
    np.testing.assert_allclose(dense[0], expected, atol=error)


@pytest.mark.parametrize(
    ("kind", "k", "expected"),
    [
        ("smoothing", 3, [0.35 / 3, 0.6, 0.35 / 3, 0.35 / 3, 0.05]),
        ("marginal_smoothing", 2, [0.075, 0.6, 0.2, 0.075, 0.05]),
        ("marginal_renorm", 2, [0, 0.6 / 0.85, 0.2 / 0.85, 0, 0.05 / 0.85]),
    ],
)
def test_a_target_outside_the_top_is_kept(kind: Kind, k: int, expected: list[float]) -> None:
    spec = LabelSpec(kind, k, 5, include_target=True)
    dense = to_dense(spec, encode(spec, *EXAMPLE), EXAMPLE[2])
    np.testing.assert_allclose(dense[0], expected, atol=3e-4)


def test_a_target_among_the_top_is_stored_once() -> None:
    ids, probs, _, _ = EXAMPLE
    target = np.array([2])
    spec = LabelSpec("marginal_smoothing", 2, 5, include_target=True)
    labels = encode(spec, ids, probs, target, np.array([0.2]))
    assert labels.target_prob is not None
    assert np.isnan(labels.target_prob[0])
    plain = LabelSpec("marginal_smoothing", 2, 5)
    np.testing.assert_array_equal(
        to_dense(spec, labels, target),
        to_dense(plain, encode(plain, ids, probs, target, np.array([0.2])), target),
    )


def test_rounding_never_lifts_a_class_above_one_before_it() -> None:
    # 0.31 is nearest to a level above 0.3125, the middle of its cell.
    ids, target = np.array([[4, 2, 1]], np.int32), np.array([7])
    spec = LabelSpec("marginal_smoothing", 2, 9, "compact", include_target=True)
    labels = encode(spec, ids, np.array([[0.312, 0.312, 0.312]]), target, np.array([0.312]))
    assert labels.probs[0, 0] == np.float32(0.3125)
    assert labels.target_prob is not None
    stored = np.append(labels.probs[0], labels.target_prob)
    assert (np.diff(stored) <= 0).all()
    np.testing.assert_allclose(stored, 0.312, atol=0.006)


def test_stored_probabilities_that_exceed_one_leave_no_tail() -> None:
    labels = SparseLabels(np.array([[3, 1]], np.int32), np.array([[0.75, 0.2515]], np.float32))
    spec = LabelSpec("marginal_smoothing", 2, 10)
    assert tail(spec, labels).tolist() == [0]
    dense = to_dense(spec, labels, np.array([0]))
    np.testing.assert_allclose(dense[0, [3, 1]], np.array([0.75, 0.2515]) / 1.0015, rtol=1e-6)


@given(predictions(), st.sampled_from(PRECISIONS))
def test_prob_0_is_the_rounded_maximum_where_the_spec_says_so(
    made: Predictions, precision: Precision
) -> None:
    spec = LabelSpec("marginal_smoothing", 3, made[0].shape[1], precision)
    assert spec.max_is_prob_0
    stored = encode(spec, *made).probs[:, 0]
    expected = round_maximum(made[1][:, 0], precision, spec.num_classes)
    np.testing.assert_array_equal(stored, expected)
    for other in (
        LabelSpec("marginal_smoothing", 3, 9, temperature=2.0),
        LabelSpec("marginal_renorm", 3, 9),
        LabelSpec("hard", 1, 9),
        LabelSpec("full", 1, 9),
    ):
        assert not other.max_is_prob_0


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("include_target", [False, True])
def test_rejected_rows_stay_rejected(
    kind: Kind, precision: Precision, include_target: bool
) -> None:
    if kind == "hard" and include_target:
        return
    ids, probs, target, target_prob = predict(np.eye(6)[:3] * 3, np.array([0, 5, 2]))
    good = LabelSpec(kind, 2, 6, precision, include_target=include_target)
    whole = to_dense(good, encode(good, ids, probs, target, target_prob), target)
    ids[1], probs[1], target_prob[1] = -1, np.nan, np.nan
    labels = encode(good, ids, probs, target, target_prob)
    entries, weights, rest = to_entries(good, labels, target)
    dense = to_dense(good, labels, target)
    assert (labels.class_ids[1] == -1).all() and (entries[1] == -1).all()
    for values in (labels.probs[1], weights[1], rest[1], dense[1]):
        assert np.isnan(values).all()
    np.testing.assert_array_equal(dense[[0, 2]], whole[[0, 2]])


def test_full_keeps_nan_rows_and_breaks_ties_that_rounding_made() -> None:
    probs = np.array([[0.30001, 0.30002, 0.39997], [0.33331, 0.33334, 0.33335], [np.nan] * 3])
    stored = encode_full(probs)
    assert stored.dtype == np.float32
    assert stored[:2].argmax(axis=1).tolist() == [2, 2]
    np.testing.assert_array_equal(stored[:2], stored[:2].astype(np.float16))
    assert np.isnan(decode_full(stored)[2]).all()
    np.testing.assert_allclose(decode_full(stored)[:2].sum(axis=1), 1)


def test_a_flat_label_of_many_classes_keeps_something() -> None:
    num_classes = 30_000
    ids = np.arange(3, dtype=np.int32)[None]
    probs = np.full((1, 3), 1 / num_classes)
    spec = LabelSpec("marginal_renorm", 1, num_classes, "compact")
    flat = LabelSpec("marginal_smoothing", 3, num_classes, "compact")
    for each in (spec, flat):
        labels = encode(each, ids, probs, np.array([0]), probs[:, 0])
        assert to_dense(each, labels, np.array([0])).sum() == pytest.approx(1)


def realistic(num_rows: int, num_classes: int) -> Predictions:
    """Labels whose maximum follows FerKD's Table 1 and whose rest falls off geometrically."""
    edges = [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0]
    share = np.array([0.43, 0.89, 1.29, 2.03, 3.66, 4.35, 5.04, 7.76, 8.14, 28.73, 37.34, 0.33])
    rng = np.random.default_rng(0)
    bins = rng.choice(12, num_rows, p=share / share.sum())
    largest = rng.uniform(np.take(edges, bins), np.take(edges, bins + 1))[:, None]
    decay = rng.uniform(0.02, 0.3, (num_rows, 1)) * np.arange(num_classes - 1)
    others = rng.gamma(0.3, size=decay.shape) * np.exp(-decay) + 1e-7
    for _ in range(4):
        others *= (1 - largest) / others.sum(axis=1, keepdims=True)
        others = np.minimum(others, largest)
    probs = np.hstack([largest, others])
    target = rng.integers(0, num_classes, num_rows)
    return predict(np.log(probs), target)


@pytest.mark.parametrize(("precision", "limit"), [("float16", 1e-6), ("compact", 1e-4)])
def test_rounding_costs_little_on_realistic_labels(precision: Precision, limit: float) -> None:
    num_classes, k = 1000, 5
    ids, probs, target, target_prob = realistic(2000, num_classes)
    spec = LabelSpec("marginal_smoothing", k, num_classes, precision)
    dense = to_dense(spec, encode(spec, ids, probs, target, target_prob), target)
    rounded = np.take_along_axis(dense, ids.astype(int), axis=1)
    exact = probs.copy()
    exact[:, k:] = (1 - probs[:, :k].sum(axis=1, keepdims=True)) / (num_classes - k)
    if precision == "compact":
        divergence = exact * np.log(exact / rounded)
    else:  # The other way round: finite also where rounding left no tail.
        divergence = np.where(rounded > 0, rounded * np.log(np.maximum(rounded, 1e-300) / exact), 0)
    assert 0 < divergence.sum(axis=1).mean() < limit
    assert np.abs(rounded - exact).sum(axis=1).max() / 2 < 0.02


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"kind": "soft"}, "kind is 'soft', allowed: hard"),
        ({"precision": "float8"}, "precision is 'float8'"),
        ({"k": 0}, "k is 0"),
        ({"num_classes": 0}, "of 0 classes"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"kind": "full", "precision": "compact"}, "allowed with kind full: float16"),
        ({"kind": "hard", "include_target": True}, "include_target is true"),
    ],
)
def test_specs_that_do_not_fit_are_refused(changes: dict[str, object], names: str) -> None:
    parts = {"kind": "marginal_smoothing", "k": 5, "num_classes": 10} | changes
    with pytest.raises(ValueError, match=names):
        LabelSpec(**parts)  # type: ignore[arg-type]

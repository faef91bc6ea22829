"""Calibration: what each crop's label becomes, whatever kind of label is stored."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.calibrate.core import apply, needs
from stages.calibrate.counts import Counts
from stages.calibrate.crops import Crops
from stages.calibrate.fit import fit
from stages.calibrate.served import ServedLabels
from stages.calibrate.steps import FerkdStep, Step
from store.codecs import Kind, LabelSpec, encode, to_dense, to_entries
from store.dense_codecs import decode_full, encode_full
from store.overlay import Action, Overlay, combine_dense
from store.precision import Precision, round_probability
from tests.stages.calibration import FERKD_CUSTOM, evidence, steps

PRECISIONS: list[Precision] = ["float16", "compact"]
LETTERS = {"k": 0, "d": 1, "s": 2, "r": 3, "t": 4, "x": 255}

FERKD = steps({"step": "ferkd"})
REVISE = steps({"step": "revise"})
SOME = np.array([0.02, 0.5, 0.97], np.float32)
"""Maxima of other crops of the store, so that no recipe drops every one."""


def calibrate(
    recipe: tuple[Step, ...],
    max_prob: list[float] | np.ndarray,
    *,
    image_ids: list[int] | None = None,
    precision: Precision = "float16",
) -> tuple[str, Overlay, Counts]:
    """Apply steps that need no labels; images are one crop before and one that is always kept."""
    stored = round_probability(max_prob, precision)
    ids = np.zeros(len(stored), int) if image_ids is None else np.array(image_ids)
    crops = Crops(ids, np.zeros(len(stored), int), stored, num_classes=10)
    uses_shares = any(isinstance(step, FerkdStep) and step.uses_shares for step in recipe)
    counted = stored if uses_shares else np.append(stored, SOME)
    verdict = apply(recipe, fit("name", recipe, evidence(counted, precision)), crops)
    names = {number: letter for letter, number in LETTERS.items()}
    letters = "".join(names[action] for action in verdict.overlay.action)
    return letters, verdict.overlay, verdict.counts


EDGES = [0.0, 0.0499, 0.05, 0.1, 0.1499, 0.15, 0.29, 0.3, 0.3005, 0.6, 0.949, 0.95, 1.0]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("preset", "expected"),
    [("ferkd", "ddsssssskkkdd"), ("ferkd_literal", "ddkkkssskkkdd")],
)
def test_published_thresholds_land_on_the_stated_side(
    preset: str, expected: str, precision: Precision
) -> None:
    recipe = steps({"step": "ferkd", "preset": preset})
    assert calibrate(recipe, EDGES, precision=precision)[0] == expected


@pytest.mark.parametrize("precision", PRECISIONS)
@given(
    st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3, unique=True),
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_intervals_are_those_of_the_stored_grid(
    precision: Precision, thresholds: list[float], max_prob: list[float]
) -> None:
    low, middle, high = sorted(thresholds)
    edges = round_probability([low, middle, high], precision)
    recipe = steps(
        {
            "step": "ferkd",
            "preset": "custom",
            "drop_below": low,
            "soften_to": middle,
            "drop_from": high,
        }
    )
    values = [*max_prob, 0.0, low, middle, high]
    x = round_probability(values, precision)
    expected = np.select([x < edges[0], x <= edges[1], x >= edges[2]], [1, 2, 1], 0)
    letters, _, _ = calibrate(recipe, values, precision=precision)
    if set(expected) == {1}:
        expected[:] = 2  # all of the one image were dropped: restored
    assert [LETTERS[letter] for letter in letters] == expected.tolist()


def test_softened_labels_are_one_minus_eps_at_the_target() -> None:
    for num_classes, eps in ((10, 0.1), (1000, 0.1), (2, 0.4), (1, 0.3), (7, 0.0)):
        recipe = steps({"step": "ferkd", "eps": eps})
        crops = Crops(np.zeros(1, int), np.array([0]), np.array([0.2], np.float32), num_classes)
        overlay = apply(recipe, fit("name", recipe, evidence(SOME)), crops).overlay
        teacher = np.full((1, num_classes), 1 / num_classes)
        label = combine_dense(
            teacher, np.array([0]), overlay.teacher_weight, overlay.target_weight
        )[0]
        assert label[0] == pytest.approx(1 - eps if num_classes > 1 else 1, abs=1e-7)
        np.testing.assert_allclose(label[1:], eps / max(1, num_classes - 1), atol=1e-7)


def test_softening_may_follow_the_teacher() -> None:
    recipe = steps({"step": "ferkd", "spread": "teacher", "eps": 0.25})
    letters, overlay, _ = calibrate(recipe, [0.2, 0.5])
    assert letters == "sk"
    assert overlay.teacher_weight.tolist() == [0.25, 1]
    assert overlay.target_weight.tolist() == [0.75, 0]


def test_groups_actions_and_shares_are_counted() -> None:
    max_prob = [0.01, 0.1, 0.2, 0.5, 0.6, 0.7, 0.99, 0.98, np.nan]
    letters, overlay, counts = calibrate(FERKD, max_prob)
    assert letters == "dsskkkddx"
    assert counts.actions == {
        "keep": 3, "drop": 3, "soften": 2, "revise": 0, "truth": 0, "reject": 1,
    }  # fmt: skip
    assert counts.groups == {
        "extreme_hard": 1, "moderate_hard": 2, "hard_positive": 3, "easy_positive": 2,
    }  # fmt: skip
    assert counts.num_crops == 8
    assert counts.shares()["drop"] == 3 / 8
    assert counts.merge(counts).shares() == counts.shares()
    assert counts.merge(Counts()) == counts
    assert "drop 37.50%" in counts.lines()[0]
    assert "extreme hard 12.50%" in counts.lines()[1]
    assert json.loads(json.dumps(counts.to_json()))["groups"]["easy_positive"] == 2
    np.testing.assert_array_equal(np.isnan(overlay.teacher_weight), [c in "dx" for c in letters])
    np.testing.assert_array_equal(np.isnan(overlay.target_weight), [c in "dx" for c in letters])


def test_an_image_that_would_lose_all_crops_keeps_them_softened() -> None:
    max_prob = [0.99, 0.01, 0.99, 0.5, np.nan, 0.97, np.nan, np.nan]
    letters, overlay, counts = calibrate(FERKD, max_prob, image_ids=[0, 0, 3, 3, 5, 5, 9, 9])
    assert letters == "ssdkxsxx"
    assert counts.restored_images == 2
    assert counts.restored_crops == 3
    assert overlay.target_weight[0] == np.float32(1 - 0.1 * 10 / 9)
    assert "2 images would have lost all their crops" in counts.lines()[-1]
    again, _, _ = calibrate(
        (*FERKD, *steps({"step": "truth"})), max_prob[:4], image_ids=[0, 0, 3, 3]
    )
    assert again == "ssdt"


def test_a_shard_without_crops_is_no_trouble() -> None:
    letters, _, counts = calibrate(FERKD, [])
    assert letters == ""
    assert counts.lines()[0] == "0 crops: none"


def test_truth_takes_every_crop_but_the_dropped() -> None:
    letters, overlay, _ = calibrate((*FERKD, *steps({"step": "truth"})), [0.01, 0.2, 0.5, np.nan])
    assert letters == "dttx"
    assert overlay.teacher_weight[1:3].tolist() == [0, 0]
    assert overlay.target_weight[1:3].tolist() == [1, 1]


# Label Revision, and that the stored kind never changes an action.


def serve(
    spec: LabelSpec, logits: np.ndarray, target: np.ndarray
) -> tuple[ServedLabels, np.ndarray]:
    """What the store serves of logits, as the step sees it and dense."""
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    if spec.kind == "full":
        stored = encode_full(probs)
        return ServedLabels.from_dense(decode_full(stored), target), decode_full(stored)
    ids = np.argsort(-logits, axis=1, kind="stable").astype(np.int32)
    ranked = np.take_along_axis(probs, ids.astype(int), axis=1)
    labels = encode(spec, ids, ranked, target, probs[np.arange(len(target)), target])
    entries = to_entries(spec, labels, target)
    served = ServedLabels.from_entries(*entries, target)
    return served, to_dense(spec, labels, target)


KINDS_AND_KS: list[tuple[Kind, tuple[int, ...]]] = [
    ("hard", (1,)),
    ("smoothing", (1,)),
    ("marginal_smoothing", (1, 3, 7, 8)),
    ("marginal_renorm", (2, 8)),
]
SPECS = [
    LabelSpec(kind, k, 8, precision, include_target=include_target)
    for kind, ks in KINDS_AND_KS
    for k in ks
    for precision in PRECISIONS
    for include_target in ((False,) if kind == "hard" else (False, True))
] + [LabelSpec("full", 8, 8)]


def made(seed: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits / T of 40 crops over 8 classes, targets, and the maxima at T=1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(40, 8)) * rng.choice([0.3, 2, 6], (40, 1))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits / temperature, rng.integers(0, 8, 40), probs.max(axis=1)


def dense_after(overlay: Overlay, dense: np.ndarray, target: np.ndarray) -> np.ndarray:
    return combine_dense(dense, target, overlay.teacher_weight, overlay.target_weight)


def run(
    recipe: tuple[Step, ...], served: ServedLabels, target: np.ndarray, max_prob: np.ndarray
) -> Overlay:
    stored = round_probability(max_prob, "float16")
    crops = Crops(np.arange(len(target)) // 4, target, stored, 8, labels=served)
    return apply(recipe, fit("name", recipe, evidence(stored, num_classes=8)), crops).overlay


@pytest.mark.parametrize("spec", SPECS, ids=str)
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), eta=st.floats(0.01, 0.99))
def test_the_margin_of_revised_labels_is_one_minus_eta(
    spec: LabelSpec, seed: int, eta: float
) -> None:
    logits, target, max_prob = made(seed)
    served, dense = serve(spec, logits, target)
    overlay = run(steps({"step": "revise", "eta": eta}), served, target, max_prob)
    after = dense_after(overlay, dense, target)
    rows = np.arange(len(target))
    others = after.copy()
    others[rows, target] = -1
    margin = after[rows, target] - others.max(axis=1)
    wrong = logits.argmax(axis=1) != target
    np.testing.assert_array_equal(overlay.action == Action.REVISE, wrong)
    # A compact label so flat that rounding put its wrong first class below the ground truth has
    # more than the margin.
    lead = dense.copy()
    lead[rows, target] = -1
    tied = lead.max(axis=1) < dense[rows, target] - 1e-6
    np.testing.assert_allclose(margin[wrong & ~tied], 1 - eta, atol=1e-6)
    assert (margin[wrong] > 1 - eta - 1e-6).all()
    np.testing.assert_array_equal(after[~wrong], dense[~wrong])
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("flat", [1, 0.001])
def test_served_labels_are_read_alike_from_entries_and_dense(spec: LabelSpec, flat: float) -> None:
    logits, target, _ = made(7)
    served, dense = serve(spec, logits * flat, target)
    expected = ServedLabels.from_dense(dense, target)
    np.testing.assert_allclose(served.at_target, expected.at_target, atol=1e-6)
    np.testing.assert_allclose(served.best_other, expected.best_other, atol=1e-6)


def test_a_wrong_label_is_wrong_also_where_rounding_tied_it() -> None:
    target = np.array([1, 0])
    ids, tied = np.array([[0, 1], [0, 1]], np.int32), np.full((2, 2), 0.4, np.float32)
    served = ServedLabels.from_entries(ids, tied, np.full(2, 0.025, np.float32), target)
    overlay = run(REVISE, served, target, np.full(2, 0.4251))
    assert overlay.action.tolist() == [Action.REVISE, Action.KEEP]
    assert overlay.teacher_weight[0] == np.float32(0.8)


def test_revising_twice_is_revising_once() -> None:
    logits, target, max_prob = made(2)
    served, _ = serve(LabelSpec("marginal_smoothing", 3, 8), logits, target)
    once = run(REVISE, served, target, max_prob)
    twice = run(REVISE * 2, served, target, max_prob)
    np.testing.assert_array_equal(once.teacher_weight, twice.teacher_weight)
    np.testing.assert_array_equal(once.target_weight, twice.target_weight)


def test_revising_everywhere_scales_right_labels_by_eta() -> None:
    logits, target, max_prob = made(3)
    served, _ = serve(LabelSpec("full", 8, 8), logits, target)
    everywhere = steps({"step": "revise", "where": "all", "eta": 0.6})
    overlay = run(everywhere, served, target, max_prob)
    right = logits.argmax(axis=1) == target
    assert (overlay.action == Action.REVISE).all()
    assert (overlay.teacher_weight[right] == np.float32(0.6)).all()
    assert (overlay.teacher_weight[~right] < 0.6).all()


@pytest.mark.parametrize(
    "recipe",
    [
        (*FERKD, *REVISE),
        (*REVISE, *FERKD),
        (*REVISE, *steps({"step": "ferkd", "spread": "teacher", "eps": 0.4}), *REVISE),
        (*FERKD, *REVISE, *steps({"step": "truth"})),
        steps(
            FERKD_CUSTOM | {"drop_lowest": 0.1, "soften_lowest": 0.3, "drop_highest": 0.2},
            {"step": "revise", "where": "all"},
        ),
    ],
)
def test_actions_do_not_depend_on_what_is_stored(recipe: tuple[Step, ...]) -> None:
    expected = None
    for temperature in (1.0, 4.0):
        logits, target, max_prob = made(4, temperature)
        for spec in SPECS:
            served, _ = serve(spec, logits, target)
            action = run(recipe, served, target, max_prob).action
            expected = action if expected is None else expected
            np.testing.assert_array_equal(action, expected)
    assert expected is not None
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("spec", SPECS[::3], ids=str)
def test_composed_steps_are_the_dense_algebra(spec: LabelSpec) -> None:
    logits, target, max_prob = made(5)
    served, dense = serve(spec, logits, target)
    recipe = (
        *steps({"step": "revise", "eta": 0.7, "where": "all"}),
        *FERKD,
        *steps({"step": "revise", "eta": 0.8, "where": "all"}),
    )
    overlay = run(recipe, served, target, max_prob)
    for row in range(len(target)):
        label, y = dense[row].copy(), target[row]
        x = round_probability(max_prob[row], "float16")
        one_hot = np.eye(8)[y]

        def revised(label: np.ndarray, eta: float, one_hot: np.ndarray = one_hot) -> np.ndarray:
            beta = eta / (label.max() - label @ one_hot + 1)
            return np.asarray(beta * label + (1 - beta) * one_hot)

        label = revised(label, 0.7)
        if x <= round_probability(0.3, "float16"):
            label = np.full(8, 0.1 / 7)
            label[y] = 0.9
        label = revised(label, 0.8)
        if overlay.action[row] != Action.DROP:
            a, b = overlay.teacher_weight[row : row + 1], overlay.target_weight[row : row + 1]
            got = combine_dense(dense[row : row + 1], target[row : row + 1], a, b)[0]
            dropped_but_restored = x >= round_probability(0.95, "float16")
            if not dropped_but_restored:
                np.testing.assert_allclose(got, label, atol=1e-6)


def test_rejected_crops_stay_rejected() -> None:
    logits, target, max_prob = made(6)
    served, _ = serve(LabelSpec("full", 8, 8), logits, target)
    max_prob[3] = np.nan
    probs = np.full((40, 8), 0.125)
    probs[3] = np.nan
    served = ServedLabels.from_dense(probs, target)
    ids = np.zeros((40, 2), np.int32)
    ids[:, 1], ids[3] = 1, -1
    weights = np.zeros((40, 2), np.float32)
    weights[3] = np.nan
    tail = probs[:, 0].astype(np.float32)
    for labels in (served, ServedLabels.from_entries(ids, weights, tail, target)):
        assert labels.argmax[3] == -1
        everywhere = steps({"step": "revise", "where": "all"}, {"step": "truth"})
        overlay = run(everywhere, labels, target, max_prob)
        assert overlay.action[3] == Action.REJECT
        assert (overlay.action == Action.REJECT).sum() == 1
        assert np.isnan(overlay.teacher_weight[3]) and np.isnan(overlay.target_weight[3])


def test_labels_are_asked_for_only_where_needed() -> None:
    assert needs(REVISE).labels
    assert not needs(FERKD).labels

"""Calibration: what each crop's label becomes, whatever kind of label is stored."""

import json

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.calibrate.config import Config, Step
from stages.calibrate.core import Crops, ServedLabels, apply, needs_labels
from stages.calibrate.counts import Counts
from stages.calibrate.fit import Fit, MaxProbCounts, fit, needs_counts
from store.codecs import Kind, LabelSpec, encode, to_dense, to_entries
from store.dense_codecs import decode_full, encode_full
from store.overlay import Action, Overlay, combine_dense
from store.precision import Precision, round_probability

PRECISIONS: list[Precision] = ["float16", "compact"]
FERKD_CUSTOM = {"step": "ferkd", "preset": "custom"}
LETTERS = {"k": 0, "d": 1, "s": 2, "r": 3, "t": 4, "x": 255}


def steps(*given: dict[str, object]) -> tuple[Step, ...]:
    return Config.model_validate({"name": list(given)}).root["name"]


FERKD = steps({"step": "ferkd"})
REVISE = steps({"step": "revise"})


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
    fitted = fit(recipe, MaxProbCounts.empty().add(stored), precision)
    overlay, counts = apply(recipe, fitted, crops)
    names = {number: letter for letter, number in LETTERS.items()}
    return "".join(names[action] for action in overlay.action), overlay, counts


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
        overlay, _ = apply(recipe, fit(recipe, MaxProbCounts.empty(), "float16"), crops)
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


# Shares, and the counts that they come from.


@given(st.lists(st.lists(st.floats(0, 1), max_size=30), max_size=5), st.floats(0, 1))
def test_counts_are_exact_and_merge_in_any_order(parts: list[list[float]], share: float) -> None:
    arrays = [round_probability(np.array(part), "float16") for part in parts]
    forward, backward = MaxProbCounts.empty(), MaxProbCounts.empty()
    for array in arrays:
        forward = forward.add(array)
    for array in arrays[::-1]:
        backward = MaxProbCounts.empty().add(array).merge(backward)
    for name in ("values", "counts"):
        np.testing.assert_array_equal(getattr(forward, name), getattr(backward, name))
    everything = np.concatenate([*arrays, np.empty(0, np.float32)])
    assert forward.total == len(everything)
    restored = MaxProbCounts.from_json(json.loads(json.dumps(forward.to_json())))
    np.testing.assert_array_equal(restored.values, forward.values)
    np.testing.assert_array_equal(restored.counts, forward.counts)
    allowed = share * len(everything) * (1 + 1e-12)  # as the code allows for float64
    below = [v for v in everything if (everything <= v).sum() <= allowed]
    above = [v for v in everything if (everything >= v).sum() <= allowed]
    assert forward.quantile(share) == (max(below) if below else None)
    assert forward.upper_quantile(share) == (min(above) if above else None)


def test_shares_take_what_they_say() -> None:
    rng = np.random.default_rng(0)
    max_prob = rng.permutation(np.linspace(0.2, 0.9, 10_000))
    recipe = steps({"step": "ferkd", "preset": "ferkd_share"})
    _, _, counts = calibrate(recipe, max_prob, precision="float16")
    assert counts.groups["extreme_hard"] == pytest.approx(20, abs=2)
    assert counts.groups["moderate_hard"] == pytest.approx(241, abs=3)
    assert counts.groups["easy_positive"] == pytest.approx(33, abs=2)
    # 0.7 % of these lie in a cell of the compact grid, and cells are never cut in two.
    _, _, counts = calibrate(recipe, max_prob, precision="compact")
    asked = {"extreme_hard": 20, "moderate_hard": 241, "easy_positive": 33}
    for group, most in asked.items():
        assert most - 2 * 72 <= counts.groups[group] <= most + 72
    exact = steps(
        {"step": "ferkd", "preset": "custom", "drop_lowest": 0.1, "soften_lowest": 0.3,
         "drop_highest": 0.29}
    )  # fmt: skip
    letters, _, _ = calibrate(exact, np.arange(1, 101) / 128)
    assert letters == "d" * 10 + "s" * 20 + "k" * 41 + "d" * 29


def test_a_share_never_takes_more_than_asked() -> None:
    recipe = steps({"step": "ferkd", "preset": "custom", "drop_lowest": 0.1, "drop_highest": 0.5})
    letters, _, _ = calibrate(recipe, [0.25] * 2 + [0.5] * 4 + [1.0] * 4)
    assert letters == "kk" + "kkkk" + "dddd"
    letters, _, _ = calibrate(recipe, [0.25] * 2 + [1.0] * 8)
    assert letters == "k" * 10


@given(st.sampled_from(["ferkd", "ferkd_literal", "ferkd_share"]), st.sampled_from(PRECISIONS))
def test_a_fit_survives_json_exactly(preset: str, precision: Precision) -> None:
    recipe = (*REVISE, *steps({"step": "ferkd", "preset": preset}))
    counts = MaxProbCounts.empty().add(round_probability(np.linspace(0.01, 1, 1000), precision))
    fitted = fit(recipe, counts, precision)
    assert Fit.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    assert fitted.num_crops == 1000
    assert needs_counts(recipe) == (preset == "ferkd_share")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"precision": "float16", "num_crops": 1},
        {"precision": "float8", "num_crops": 1, "thresholds": []},
        {"precision": "float16", "num_crops": 1, "thresholds": [{"drop_below": 0.1}]},
    ],
)
def test_what_is_no_fit_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a fit"):
        Fit.from_json(data)  # type: ignore[arg-type]


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
    served = ServedLabels.from_entries(*entries, target, spec.num_classes)
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
    crops = Crops(np.arange(len(target)) // 4, target, stored, 8, served)
    fitted = fit(recipe, MaxProbCounts.empty().add(stored), "float16")
    return apply(recipe, fitted, crops)[0]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("eta", [0.8, 0.3])
def test_the_margin_of_revised_labels_is_one_minus_eta(spec: LabelSpec, eta: float) -> None:
    logits, target, max_prob = made(1)
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
    served = ServedLabels.from_entries(ids, tied, np.full(2, 0.025, np.float32), target, 8)
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
    for labels in (served, ServedLabels.from_entries(ids, weights, tail, target, 8)):
        assert labels.argmax[3] == -1
        everywhere = steps({"step": "revise", "where": "all"}, {"step": "truth"})
        overlay = run(everywhere, labels, target, max_prob)
        assert overlay.action[3] == Action.REJECT
        assert (overlay.action == Action.REJECT).sum() == 1
        assert np.isnan(overlay.teacher_weight[3]) and np.isnan(overlay.target_weight[3])


def test_labels_are_asked_for_only_where_needed() -> None:
    assert needs_labels(REVISE)
    assert not needs_labels(FERKD)


# Parameters.


def test_defaults_read_well() -> None:
    config = Config.model_validate(
        {
            "ferkd": [{"step": "ferkd"}],
            "revision": [{"step": "revise", "eta": 0.8, "where": "wrong"}],
        }
    )
    assert [step.step for step in config.root["ferkd"]] == ["ferkd"]
    assert config.root["revision"] == REVISE
    assert Config.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"step": "ferkd", "eps": 0.5}, "eps"),
        ({"step": "ferkd", "eps": -0.1}, "eps"),
        ({"step": "ferkd", "drop_below": 0.1}, "drop_below is given with preset ferkd"),
        ({"step": "ferkd", "preset": "ferkdd"}, "preset"),
        ({"step": "ferkd", "threshold": 1}, "threshold"),
        (FERKD_CUSTOM, "needed: at least one"),
        (FERKD_CUSTOM | {"drop_below": 0.3, "soften_to": 0.05}, r"soften_to is 0.05, allowed"),
        (FERKD_CUSTOM | {"drop_below": 0.3, "soften_to": 0.3}, "interval is empty"),
        (FERKD_CUSTOM | {"soften_to": 0.9, "drop_from": 0.9}, "overlaps"),
        (FERKD_CUSTOM | {"drop_below": 0.9, "drop_from": 0.8}, "overlaps"),
        (FERKD_CUSTOM | {"drop_below": 0.2, "soften_from": 0.1, "soften_to": 0.3}, "overlaps"),
        (FERKD_CUSTOM | {"soften_from": 0.1}, "without soften_to"),
        (FERKD_CUSTOM | {"drop_from": 1.2}, "drop_from"),
        (FERKD_CUSTOM | {"drop_below": 0.1, "drop_highest": 0.1}, "thresholds or shares"),
        (FERKD_CUSTOM | {"drop_lowest": 0.2, "soften_lowest": 0.1}, "above drop_lowest"),
        (FERKD_CUSTOM | {"soften_lowest": 0.6, "drop_highest": 0.5}, "drop_highest is 0.5"),
        ({"step": "revise", "eta": 1.0}, "eta"),
        ({"step": "revise", "eta": 0.0}, "eta"),
        ({"step": "revise", "where": "here"}, "where"),
        ({"step": "select"}, "'select'"),
        ({}, "step"),
    ],
)
def test_wrong_parameters_are_one_clear_line(step: dict[str, object], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message) as caught:
        Config.model_validate({"name": [step]})
    errors = caught.value.errors()
    assert len(errors) == 1
    assert "\n" not in errors[0]["msg"]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "x" * 65, "é"])
def test_names_are_plain_folder_names(name: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="is no name of a calibration"):
        Config.model_validate({name: [{"step": "ferkd"}]})


@pytest.mark.parametrize(
    ("recipe", "message"),
    [([], "has no steps"), ([{"step": "ferkd"}] * 2, "the step ferkd twice")],
)
def test_recipes_make_sense(recipe: list[object], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Config.model_validate({"name": recipe})

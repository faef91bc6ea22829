"""What all shards together say: reliability, and the thresholds chosen from it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.calibrate.core import apply
from stages.calibrate.counts import Counts
from stages.calibrate.crops import Crops
from stages.calibrate.fit import Fit, fit, needed_probabilities
from stages.calibrate.reliability import Reliability
from stages.calibrate.steps import FerkdStep, Step
from stages.calibrate.thresholds import Thresholds
from stages.calibrate.told import fit_lines, intervals
from store.errors import DataError, ParamsError
from store.precision import Precision, round_probability
from tests.stages.calibration import FERKD_CUSTOM, evidence, steps

PRECISIONS: list[Precision] = ["float16", "compact"]
AUTO = steps({"step": "ferkd", "preset": "auto"})


def thresholds(recipe: tuple[Step, ...], *given: object, **named: object) -> Thresholds:
    found = fit("name", recipe, evidence(*given, **named)).steps[0].thresholds  # type: ignore[arg-type]
    assert found is not None
    return found


def groups(recipe: tuple[Step, ...], max_prob: np.ndarray, precision: Precision) -> Counts:
    stored = round_probability(max_prob, precision)
    crops = Crops(np.zeros(len(stored), int), np.zeros(len(stored), int), stored, 10)
    return apply(recipe, fit("name", recipe, evidence(stored, precision)), crops).counts


# Counting crops by probability.


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30), min_size=1, max_size=5
    ),
    st.floats(0, 1),
)
def test_counts_are_exact_and_merge_in_any_order(
    parts: list[list[tuple[float, bool]]], share: float
) -> None:
    arrays = [
        (
            round_probability(np.array([x for x, _ in part]), "float16"),
            np.array([hit for _, hit in part], bool),
        )
        for part in parts
    ]
    found = [Reliability.of(x, right, x / np.float32(2)) for x, right in arrays]
    forward, backward = Reliability.empty(), Reliability.empty()
    for one in found:
        forward = forward.merge(one)
    for one in found[::-1]:
        backward = one.merge(backward)
    for name in ("values", "crops", "right", "target_sum"):
        np.testing.assert_array_equal(getattr(forward, name), getattr(backward, name))
    everything = np.concatenate([x for x, _ in arrays])
    hits = np.concatenate([right for _, right in arrays])
    assert forward.total == len(everything)
    for value, crops, right in zip(forward.values, forward.crops, forward.right, strict=True):
        assert crops == (everything == value).sum()
        assert right == hits[everything == value].sum()
    np.testing.assert_allclose(forward.target_sum.sum() / 2**20, everything.sum() / 2, atol=1e-3)
    allowed = share * len(everything) * (1 + 1e-12)  # as the code allows for float64
    below = [v for v in everything if (everything <= v).sum() <= allowed]
    above = [v for v in everything if (everything >= v).sum() <= allowed]
    assert forward.quantile(share) == (max(below) if below else None)
    assert forward.upper_quantile(share) == (min(above) if above else None)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 12))
def test_bins_hold_every_crop_once_and_part_no_equals(sizes: list[int], num_bins: int) -> None:
    x = np.repeat(np.arange(1, len(sizes) + 1) / 64, sizes).astype(np.float32)
    right = np.arange(len(x)) % 3 == 0
    found = list(Reliability.of(x, right, x).bins(num_bins))
    assert sum(each.crops for each in found) == len(x)
    assert sum(each.right for each in found) == right.sum()
    assert len(found) <= num_bins
    assert [each.low for each in found] == sorted(each.low for each in found)
    for each in found:
        inside = (x >= each.low) & (x <= each.high)
        assert each.crops == inside.sum()
        assert each.target_prob == pytest.approx(float(x[inside].mean()), abs=1e-5)
        # A bin is no larger than its share and the one value that crosses its end.
        assert each.crops < len(x) / num_bins + 1 + max(sizes)


def test_crops_without_a_prediction_are_not_counted() -> None:
    x = np.array([0.5, np.nan, 0.25, np.nan], np.float32)
    found = Reliability.of(x, np.array([True, True, False, False]), x)
    assert found.values.tolist() == [0.25, 0.5]
    assert (found.total, found.right.tolist()) == (2, [0, 1])
    assert found.accuracy == 0.5
    assert np.isnan(Reliability.empty().accuracy)
    assert list(Reliability.empty().bins(5)) == []


# Shares.


def test_shares_take_what_they_say() -> None:
    rng = np.random.default_rng(0)
    max_prob = rng.permutation(np.linspace(0.2, 0.9, 10_000))
    recipe = steps({"step": "ferkd", "preset": "ferkd_share"})
    found = groups(recipe, max_prob, "float16").groups
    assert found["extreme_hard"] == pytest.approx(20, abs=2)
    assert found["moderate_hard"] == pytest.approx(241, abs=3)
    assert found["easy_positive"] == pytest.approx(33, abs=2)
    # 0.7 % of these lie in a cell of the compact grid, and cells are never cut in two.
    found = groups(recipe, max_prob, "compact").groups
    asked = {"extreme_hard": 20, "moderate_hard": 241, "easy_positive": 33}
    for group, most in asked.items():
        assert most - 2 * 72 <= found[group] <= most + 72
    exact = steps(FERKD_CUSTOM | {"drop_lowest": 0.1, "soften_lowest": 0.3, "drop_highest": 0.29})
    sizes = groups(exact, np.arange(1, 101) / 128, "float16").groups
    assert list(sizes.values()) == [10, 20, 41, 29]


def test_a_share_never_takes_more_than_asked() -> None:
    recipe = steps(FERKD_CUSTOM | {"drop_lowest": 0.1, "drop_highest": 0.5})
    found = groups(recipe, np.array([0.25] * 2 + [0.5] * 4 + [1.0] * 4), "float16")
    assert (found.groups["extreme_hard"], found.groups["easy_positive"]) == (0, 4)
    found = groups(recipe, np.array([0.25] * 2 + [1.0] * 8), "float16")
    assert found.groups["hard_positive"] == 10


# Auto: from how often the teacher is right.


def crops_of_a_teacher(accuracies: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """1,000 crops a bin of the given accuracy, bins from .1 upwards in steps of .05."""
    x = np.repeat(0.1 + 0.05 * np.arange(len(accuracies)), 1000)
    right = np.concatenate([np.arange(1000) < 1000 * each for each in accuracies])
    return x.astype(np.float32), right


def test_auto_drops_at_chance_and_softens_below_half() -> None:
    x, right = crops_of_a_teacher([0.1, 0.2, 0.21, 0.49, 0.5, 0.3, 0.9, 0.99])
    wide = steps({"step": "ferkd", "preset": "auto", "drop_lowest": 0.9, "soften_lowest": 0.95})
    found = thresholds(wide, x, right=right, num_classes=10)  # chance is 0.1
    assert found.drop_up_to == pytest.approx(0.15)
    assert found.soften_to == pytest.approx(0.25)  # the later dip below half is not leading
    assert found.drop_from is None
    found = thresholds(wide, x, right=right, num_classes=1000)  # 2 / C is below all of them
    assert found.drop_up_to is None
    assert found.soften_to == pytest.approx(0.25)
    found = thresholds(wide, x, right=right, num_classes=2)  # chance is half: no more than it
    assert found.drop_up_to == found.soften_to == pytest.approx(0.35)


def test_auto_stays_below_its_caps() -> None:
    x = (np.arange(1, 10_001) / 10_001).astype(np.float32)
    never = np.zeros(len(x), bool)
    found = thresholds(AUTO, x, right=never)
    low, soft, high = found.groups(x)
    assert (low.sum(), (low | soft).sum(), high.sum()) == (50, 300, 0)
    asked = steps(
        {"step": "ferkd", "preset": "auto", "drop_lowest": 0.02, "soften_lowest": 0.1,
         "drop_highest": 0.01}
    )  # fmt: skip
    low, soft, high = thresholds(asked, x, right=never).groups(x)
    assert (low.sum(), (low | soft).sum(), high.sum()) == (200, 1000, 100)
    assert thresholds(AUTO, x, right=~never) == Thresholds()


def test_auto_looks_at_the_crops_that_the_teacher_never_saw() -> None:
    x, hard = crops_of_a_teacher([0.1, 0.3, 0.9])
    unseen = {"max": Reliability.of(x, hard, x), "target": Reliability.of(x, hard, x)}
    step = {"step": "ferkd", "preset": "auto", "drop_lowest": 0.8, "soften_lowest": 0.9}
    by_heart = np.ones(len(x), bool)
    assert thresholds(steps(step), x, right=by_heart) == Thresholds()
    recipe = steps(step | {"validation": "labels-val"})
    proof = evidence(x, right=by_heart, validation=unseen)
    fitted = fit("name", recipe, proof)
    assert fitted.steps[0].thresholds == Thresholds(drop_up_to=x[0], soften_to=x[1000])
    [line] = fit_lines("name", recipe, fitted)
    assert "right on 100.0 % of training crops and 43.3 % of validation crops" in line
    [line] = fit_lines("name", steps(step), fit("name", steps(step), evidence(x, right=hard)))
    assert line.endswith("by heart: name a store of validation images")
    nothing = {on: Reliability.empty() for on in ("max", "target")}
    with pytest.raises(DataError, match="labels-val holds no crop"):
        fit("name", recipe, evidence(x, right=hard, validation=nothing))


def test_caps_are_shares_of_the_stores_own_crops() -> None:
    """However sure the teacher is of validation crops, where it is never right."""
    x = np.linspace(0.1, 0.99, 10_000).astype(np.float32)
    surer = Reliability.of(np.sqrt(x), np.zeros(len(x), bool), x)
    recipe = steps({"step": "ferkd", "preset": "auto", "validation": "labels-val"})
    proof = evidence(x, validation={"max": surer, "target": surer})
    fitted = fit("name", recipe, proof).steps[0]
    assert fitted.thresholds is not None
    low, soft, _ = fitted.thresholds.groups(x)
    assert (low.sum(), (low | soft).sum()) == (50, 300)
    assert fitted.stopped_by == {"drop_lowest": 0.005, "soften_lowest": 0.03}


def test_reliability_is_asked_of_the_probability_that_thresholds_are_on() -> None:
    x, hard = crops_of_a_teacher([0.1, 0.9])
    easy = Reliability.of(x, np.ones(len(x), bool), x)
    unseen = {"max": easy, "target": Reliability.of(x, hard, x)}
    step = {"step": "ferkd", "preset": "auto", "drop_lowest": 0.6, "soften_lowest": 0.7}
    for on, expected in (("max", Thresholds()), ("target", Thresholds(drop_up_to=x[0]))):
        recipe = steps({**step, "on": on, "validation": "labels-val"})
        found = fit("name", recipe, evidence(x, validation=unseen)).steps[0].thresholds
        assert found is not None
        assert found.drop_up_to == expected.drop_up_to


def test_eps_auto_is_asked_of_validation_crops() -> None:
    x = np.full(100, 0.9, np.float32)
    less_sure = Reliability.of(np.full(100, 0.7, np.float32), np.ones(100, bool), x)
    recipe = steps(FERKD_CUSTOM | {"soften_to": 0.3, "eps": "auto", "validation": "labels-val"})
    proof = evidence(x, validation={"max": less_sure, "target": less_sure})
    assert fit("name", recipe, proof).steps[0].eps == pytest.approx(0.3, abs=1e-6)


def test_eps_auto_is_what_kept_right_crops_lack() -> None:
    x = np.array([0.1, 0.2, 0.7, 0.8, 0.9, 0.95, 0.6], np.float32)
    right = np.array([True, True, True, True, True, True, False])
    step: dict[str, object] = FERKD_CUSTOM | {
        "drop_below": 0.15, "soften_to": 0.3, "eps": "auto",
    }  # fmt: skip
    fitted = fit("name", steps(step), evidence(x, right=right))
    assert fitted.steps[0].eps == pytest.approx(1 - 0.8, abs=1e-6)
    fitted = fit("name", steps(step | {"drop_from": 0.9}), evidence(x, right=right))
    assert fitted.steps[0].eps == pytest.approx(1 - 0.7, abs=1e-6)
    flat = fit("name", steps(step), evidence(np.full(9, 0.35)))
    assert flat.steps[0].eps == 0.49  # else the ground truth might not lead
    wrong = fit("name", steps(step), evidence(x, right=np.zeros(7)))
    assert wrong.steps[0].eps == 0.1


def test_thresholds_on_the_ground_truth_see_a_confident_wrong_teacher() -> None:
    sure, target = np.array([0.99, 0.97, 0.9], np.float32), np.array([0.002, 0.97, 0.9])
    step: dict[str, object] = FERKD_CUSTOM | {"drop_below": 0.01, "soften_to": 0.3}
    for on, action in (("max", 0), ("target", 1)):
        recipe = steps(step | {"on": on})
        fitted = fit("name", recipe, evidence(sure, target_prob=target))
        crops = Crops(
            np.zeros(3, int), np.zeros(3, int), sure, 10, target_prob=target.astype(np.float32)
        )
        overlay = apply(recipe, fitted, crops).overlay
        assert overlay.action.tolist() == [action, 0, 0]


# What is refused, what is kept, what is said.


def test_dropping_every_crop_is_refused() -> None:
    recipe = steps(FERKD_CUSTOM | {"drop_below": 0.9, "drop_from": 0.95})
    with pytest.raises(ParamsError, match=r"calibrate.name: the step ferkd drops every one of 3"):
        fit("name", recipe, evidence([0.2, 0.5, 0.97]))
    fit("name", recipe, evidence([0.2, 0.5, 0.92]))
    fit("name", recipe, evidence([]))


@given(
    st.sampled_from(["ferkd", "ferkd_literal", "ferkd_share", "auto"]), st.sampled_from(PRECISIONS)
)
def test_a_fit_survives_json_exactly(preset: str, precision: Precision) -> None:
    recipe = steps(
        {"step": "select", "scores": "mine", "share": 0.3},
        {"step": "revise"},
        {"step": "ferkd", "preset": preset},
    )
    stored = round_probability(np.linspace(0.01, 1, 1000), precision)
    scores = {"mine": (np.linspace(0, 1, 7) / 3).astype(np.float32)}
    fitted = fit("name", recipe, evidence(stored, precision, scores=scores))
    assert Fit.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    assert fitted.num_crops == 1000


def test_only_ferkd_must_look_at_every_crop_first() -> None:
    assert needed_probabilities(steps({"step": "revise"}, {"step": "truth"})) == ()
    assert needed_probabilities(AUTO) == ("max",)
    on_target = steps({"step": "ferkd", "on": "target"})
    assert isinstance(on_target[0], FerkdStep)
    assert needed_probabilities(on_target) == ("max", "target")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"precision": "float16", "num_crops": 1, "reliability": {}},
        {"precision": "float8", "num_crops": 1, "steps": [], "reliability": {}},
        {"precision": "float16", "num_crops": 1, "reliability": {}, "steps": [
            {"thresholds": {"drops_below": 0.1}}
        ]},
        {"precision": "float16", "num_crops": 1, "reliability": {}, "steps": [3]},
        {"precision": "float16", "num_crops": 1, "reliability": {}, "steps": [{"cutoff": {}}]},
        [],
    ],
)  # fmt: skip
def test_what_is_no_fit_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="not a fit"):
        Fit.from_json(data)


def test_intervals_in_words() -> None:
    literal = Thresholds(drop_below=0.05, soften_from=0.15, soften_to=0.3, drop_from=0.95)
    assert intervals(literal) == "drop below 0.05, soften from 0.15 up to 0.3, drop from 0.95"
    plain = Thresholds(drop_below=0.05, soften_from=0.05, soften_to=0.3)
    assert intervals(plain) == "drop below 0.05, soften up to 0.3"
    assert intervals(Thresholds(drop_up_to=0.1)) == "drop up to 0.1"
    assert intervals(Thresholds()) == "keep all"

"""Steps that look at whole images: Data Selection, and images suspected of a wrong label."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.calibrate import selection
from stages.calibrate.core import Verdict, apply, needs
from stages.calibrate.crops import Crops
from stages.calibrate.fit import Fit, fit
from stages.calibrate.served import ServedLabels
from stages.calibrate.steps import NoiseStep, SelectStep, Step
from store.overlay import Action, combine_dense
from tests.stages.calibration import FERKD_CUSTOM, evidence, steps

SELECT: dict[str, object] = {"step": "select", "scores": "mine"}
NOISE: dict[str, object] = {"step": "noise"}


def select(share: float) -> SelectStep:
    [step] = steps(SELECT | {"share": share})
    assert isinstance(step, SelectStep)
    return step


# Data Selection.


@given(
    st.lists(st.floats(-10, 10, width=32) | st.just(float("nan")), max_size=40),
    st.floats(0, 1),
    st.integers(1, 5),
)
def test_the_share_is_exact_and_shards_change_nothing(
    values: list[float], share: float, num_shards: int
) -> None:
    scores = np.array(values, np.float32)
    cutoff = selection.choose(select(share), scores)
    ids = np.arange(len(scores))
    taught = cutoff.is_taught(scores, ids)
    num_scored = int((~np.isnan(scores)).sum())
    assert abs(taught.sum() - share * num_scored) <= 0.5
    assert cutoff.num_taught == taught.sum()
    assert cutoff.num_scored == num_scored
    assert not taught[np.isnan(scores)].any()
    if taught.any() and not taught.all():
        others = scores[~taught & ~np.isnan(scores)]
        assert not len(others) or scores[taught].min() >= others.max()
    parts = [cutoff.is_taught(scores[part], part) for part in np.array_split(ids, num_shards)]
    np.testing.assert_array_equal(np.concatenate([*parts, np.zeros(0, bool)]), taught)


def test_of_equal_scores_the_earlier_image_goes_first() -> None:
    scores = np.array([1, 2, 1, 1], np.float32)
    taught = selection.choose(select(0.5), scores).is_taught(scores, np.arange(4))
    assert taught.tolist() == [True, True, False, False]


def crops_of_images(num_images: int, num_crops: int, **changes: object) -> Crops:
    """Crops with a right teacher; fields may be replaced."""
    num = num_images * num_crops
    given: dict[str, object] = {
        "image_ids": np.repeat(np.arange(num_images), num_crops),
        "targets": np.ones(num, int),
        "max_prob": np.full(num, 0.75, np.float32),
        "num_classes": 4,
        "target_prob": np.full(num, 0.75, np.float32),
        "top_class": np.ones(num, int),
    }
    return Crops(**(given | changes))  # type: ignore[arg-type]


def fitted(recipe: tuple[Step, ...], crops: Crops) -> Fit:
    scores = {"mine": np.zeros(9, np.float32)}
    return fit("name", recipe, evidence(np.append(crops.max_prob, 0.75), scores=scores))


def verdict(recipe: tuple[Step, ...], crops: Crops) -> Verdict:
    return apply(recipe, fitted(recipe, crops), crops)


def test_selected_images_learn_from_the_teacher_and_others_from_ground_truth() -> None:
    taught = np.repeat([True, False], 2)
    found = verdict(steps(SELECT | {"share": 0.5}), crops_of_images(2, 2, is_taught=taught))
    assert found.overlay.action.tolist() == [Action.KEEP] * 2 + [Action.TRUTH] * 2
    assert found.overlay.teacher_weight.tolist() == [1, 1, 0, 0]
    assert found.overlay.target_weight.tolist() == [0, 0, 1, 1]
    assert found.counts.taught_images == 1
    assert "1 of 2 images are taught by the teacher" in " ".join(found.counts.lines())
    none = verdict(steps(SELECT | {"share": 0}), crops_of_images(2, 2, is_taught=taught & False))
    assert (none.overlay.action == Action.TRUTH).all()


def test_lambda_mixes_revised_labels_with_ground_truth() -> None:
    """lambda p' + (1 - lambda) y for selected images, with p' the revised label."""
    dense = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.6, 0.2, 0.1]])
    crops = crops_of_images(
        2, 1, is_taught=np.array([True, True]),
        labels=ServedLabels.from_dense(dense, np.ones(2, int)), top_class=np.array([0, 1]),
    )  # fmt: skip
    recipe = steps({"step": "revise", "eta": 0.8}, SELECT | {"teacher_weight": 0.5})
    overlay = verdict(recipe, crops).overlay
    got = combine_dense(dense, crops.targets, overlay.teacher_weight, overlay.target_weight)
    one_hot = np.eye(4)[1]
    beta = 0.8 / (0.7 - 0.2 + 1)
    revised = np.stack([beta * dense[0] + (1 - beta) * one_hot, dense[1]])
    np.testing.assert_allclose(got, 0.5 * revised + 0.5 * one_hot, atol=1e-6)


def test_ferkd_drops_on_top_of_a_selection() -> None:
    """Label Revision on selected images with FerKD dropping on top: one list, in order."""
    crops = crops_of_images(
        3, 2, is_taught=np.repeat([True, False, True], 2),
        max_prob=np.array([0.02, 0.7, 0.02, 0.8, 0.2, 0.9], np.float32),
    )  # fmt: skip
    recipe = steps(SELECT, FERKD_CUSTOM | {"drop_below": 0.05, "soften_to": 0.3})
    actions = verdict(recipe, crops).overlay.action
    names = [Action(action).name for action in actions]
    assert names == ["DROP", "KEEP", "DROP", "TRUTH", "SOFTEN", "KEEP"]


# Images suspected of a wrong label.


def wrong_images() -> Crops:
    """Five images of ten crops: right; wrong as one; wrong but unsure; at odds; half wrong."""
    top = np.ones((5, 10), int)
    sure = np.full((5, 10), 0.9, np.float32)
    target = np.full((5, 10), 0.9, np.float32)
    top[1], target[1] = 3, 0.01
    top[2], target[2], sure[2] = 3, 0.1, 0.4
    top[3], target[3] = [0, 2, 3, 0, 2, 3, 0, 2, 3, 0], 0.05
    top[4, :5], target[4, :5] = 3, 0.02
    return crops_of_images(
        5, 10, top_class=top.ravel(), max_prob=sure.ravel(), target_prob=target.ravel()
    )


def suspected(step: dict[str, object], crops: Crops) -> list[int]:
    found = verdict(steps(step, {"step": "truth"}), crops).suspects
    assert found is not None
    return [int(image_id) for image_id in found.image_ids]


def test_only_a_teacher_that_is_sure_and_of_one_mind_is_believed() -> None:
    crops = wrong_images()
    assert suspected(NOISE, crops) == [1]
    assert suspected(NOISE | {"confidence": 0.3}, crops) == [1, 2]
    assert suspected(NOISE | {"agreement": 0.51, "target_below": 1.0}, crops) == [1]
    assert suspected(NOISE | {"target_below": 0.009}, crops) == []
    found = verdict(steps(NOISE, {"step": "truth"}), crops).suspects
    assert found is not None
    assert found.teacher_classes.tolist() == [3]
    assert found.targets.tolist() == [1]
    assert found.agreement.tolist() == [1.0]
    assert found.target_prob == pytest.approx([0.01])


def test_agreement_counts_the_crops_that_have_a_prediction() -> None:
    crops = wrong_images()
    max_prob = crops.max_prob.copy()
    top = np.asarray(crops.top_class).copy()
    max_prob[10:14], top[10:14] = np.nan, -1  # of image 1: six of six still agree
    top[14:16] = 1
    gone = crops_of_images(5, 10, top_class=top, max_prob=max_prob, target_prob=crops.target_prob)
    assert suspected(NOISE | {"agreement": 4 / 6}, gone) == [1]
    assert suspected(NOISE | {"agreement": 0.67}, gone) == []


@pytest.mark.parametrize(
    "after",
    [
        {"step": "truth"},
        {"step": "revise", "where": "all"},
        SELECT | {"share": 0.0},
        FERKD_CUSTOM | {"soften_to": 0.95},
    ],
    ids=lambda step: str(step["step"]),
)
def test_no_step_writes_ground_truth_into_a_suspected_image(after: dict[str, object]) -> None:
    crops = wrong_images()
    dense = np.full((50, 4), 0.25)
    crops = crops_of_images(
        5, 10, top_class=crops.top_class, max_prob=crops.max_prob, target_prob=crops.target_prob,
        labels=ServedLabels.from_dense(dense, crops.targets), is_taught=np.zeros(50, bool),
    )  # fmt: skip
    overlay = verdict(steps(NOISE, after), crops).overlay
    mine = slice(10, 20)
    assert (overlay.action[mine] == Action.KEEP).all()
    assert (overlay.teacher_weight[mine] == 1).all() and (overlay.target_weight[mine] == 0).all()
    assert (overlay.action[:10] != Action.KEEP).all()


def test_a_suspected_image_that_lost_all_crops_keeps_the_teachers_labels() -> None:
    crops = wrong_images()
    max_prob = crops.max_prob.copy()
    max_prob[:20] = 0.6
    crops = crops_of_images(
        5, 10, top_class=crops.top_class, max_prob=max_prob, target_prob=crops.target_prob
    )
    recipe = steps(NOISE, FERKD_CUSTOM | {"drop_below": 0.35, "drop_from": 0.55})
    found = verdict(recipe, crops)
    actions = found.overlay.action.reshape(5, 10)
    assert (actions[0] == Action.SOFTEN).all()  # nobody doubts its label
    assert (actions[1] == Action.KEEP).all()
    assert (actions[2] == Action.KEEP).all()  # never dropped
    assert found.counts.restored_images == 4
    assert found.counts.suspected_images == 1
    assert "1 of 5 images are suspected" in " ".join(found.counts.lines())


def test_what_each_step_must_read() -> None:
    assert needs(steps(NOISE, {"step": "truth"})).top_class
    assert needs(steps({"step": "ferkd", "on": "target"})).target_prob
    assert not needs(steps({"step": "ferkd"})).target_prob
    assert isinstance(steps(NOISE, {"step": "truth"})[0], NoiseStep)

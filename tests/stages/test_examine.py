"""Judging teachers: chance, samples of images, orders of classes, names, other pixels."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.data.imagenet_info import ImageNetInfo

from stages.infer import check
from stages.infer.config import Member
from stages.infer.examine import names
from stages.infer.examine.alternatives import Alternative, better
from stages.infer.examine.answers import Answers
from stages.infer.examine.chance import at_least, verdict
from stages.infer.examine.order import best_order, other_order, usual_orders
from stages.infer.examine.sampling import spread
from stages.shared.model_config import PixelSpec

Ids = NDArray[np.int64]


def law(n: int, p: float) -> NDArray[np.float64]:
    """Probability of 0 to n successes."""
    exact = [
        math.comb(n, k) * Fraction(p) ** k * (1 - Fraction(p)) ** (n - k) for k in range(n + 1)
    ]
    return np.array([float(each) for each in exact])


@pytest.mark.parametrize("case", [(0, 9, 0.3), (4, 9, 0.3), (9, 9, 0.3), (12, 400, 0.01)])
def test_tails_are_those_of_the_binomial_law(case: tuple[int, int, float]) -> None:
    k, n, p = case
    assert at_least(k, n, p) == pytest.approx(law(n, p)[k:].sum())


@pytest.mark.parametrize(
    ("right", "num", "classes", "expected"),
    [
        (0, 64, 1000, "near chance"),
        (1, 64, 1000, "near chance"),  # one hit of 64 is luck in 6 % of all runs
        (2, 64, 1000, "fine"),
        (3, 64, 1000, "fine"),  # a teacher that knows a twentieth
        (32, 64, 2, "near chance"),
        (48, 64, 2, "fine"),
        (6, 8, 5, "fine"),
        (3, 8, 5, "unclear"),  # 8 images cannot tell
        (1, 8, 5, "near chance"),
        (90, 50_000, 1000, "near chance"),  # more than chance, and useless
        (250, 50_000, 1000, "fine"),
        (5, 5, 1, "fine"),
    ],
)
def test_verdicts(right: int, num: int, classes: int, expected: str) -> None:
    assert verdict(right, num, classes) == expected


def test_verdicts_are_seldom_wrong() -> None:
    """Over all that can happen with 64 images: of guessing networks, and of decent teachers."""
    for num_classes in (2, 5, 10, 1000):
        chance = 1 / num_classes
        half_way = chance + (1 - chance) / 2
        told = np.array([verdict(k, 64, num_classes) for k in range(65)])
        assert law(64, chance)[told == "near chance"].sum() > 0.95
        assert law(64, half_way)[told == "near chance"].sum() < 0.011


def test_a_sample_is_spread_and_the_same_every_time() -> None:
    ids = np.repeat(np.arange(100), 50)
    rows = spread(ids, 64)
    assert len(set(ids[rows])) == 64 and (np.diff(rows) > 0).all()
    assert ids[rows].mean() == pytest.approx(50, abs=12)  # not the first classes
    np.testing.assert_array_equal(rows, spread(ids, 64))
    assert np.unique(ids[spread(ids, 40, per_class=4)], return_counts=True)[1].tolist() == [4] * 10
    np.testing.assert_array_equal(spread(ids[:30], 64), np.arange(30))
    few = np.array([0] * 90 + [1] * 2)
    assert np.bincount(few[spread(few, 10)]).tolist() == [8, 2]  # of small classes all


def teacher_of(classes: Ids, order: Ids, knows: float, seed: int = 0) -> Ids:
    """Answers of a teacher that counts in ``order`` and is right with this probability."""
    random = np.random.default_rng(seed)
    guesses = random.integers(0, len(order), len(classes))
    return np.where(random.random(len(classes)) < knows, order[classes], guesses)


NAMES = [f"c{number:04}" for number in range(100)]
CLASSES = np.repeat(np.arange(100), 10)


@pytest.mark.parametrize("knows", [0.5, 0.9])
def test_another_order_is_found(knows: float) -> None:
    order = np.random.default_rng(1).permutation(100)
    answers = teacher_of(CLASSES, order, knows)
    found = other_order(CLASSES, answers, NAMES)
    assert found is not None and found.rule is None
    assert found.num_judged == 1000 and found.num_classes == 100
    assert found.num_matched / 1000 == pytest.approx(knows, abs=0.06)
    assert found.num_right == (answers == CLASSES).sum() < 60
    moved = {each.class_id: each.answered for each in found.moved}
    assert len(moved) > 80
    assert sum(order[own] == answered for own, answered in moved.items()) >= 0.97 * len(moved)


def test_two_classes_that_changed_places_are_found() -> None:
    order = np.arange(100)
    order[[3, 7]] = 7, 3
    found = other_order(CLASSES, teacher_of(CLASSES, order, 0.9), NAMES)
    assert found is not None
    assert {(each.class_id, each.answered) for each in found.moved} == {(3, 7), (7, 3)}


@pytest.mark.parametrize("knows", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("num", [1, 2, 10])
def test_the_right_order_is_not_suspected(knows: float, num: int) -> None:
    classes = np.repeat(np.arange(100), num)
    for seed in range(20):
        assert other_order(classes, teacher_of(classes, np.arange(100), knows, seed), NAMES) is None


def test_a_network_that_answers_by_something_else_is_in_no_order() -> None:
    """Untrained networks answer by colour: a third of each class alike, whatever the class."""
    order = np.random.default_rng(5).permutation(10)
    classes = np.repeat(np.arange(10), 60)
    assert other_order(classes, teacher_of(classes, order, 0.35), NAMES[:10]) is None
    assert other_order(classes, np.full(600, 7), NAMES[:10]) is None


def test_classes_that_look_alike_are_not_moved() -> None:
    """Most of each of two classes is taken for the other: no order is meant by that."""
    random = np.random.default_rng(0)
    classes = np.repeat(np.arange(20), 50)
    answers = classes.copy()
    for own in (0, 1):
        answers[random.permutation(50)[:38] + 50 * own] = 1 - own
    assert other_order(classes, answers, NAMES[:20]) is None


@pytest.mark.parametrize("num", [1, 5])
def test_usual_orders_need_few_images(num: int) -> None:
    """Folders 0 to 99 stand as 0, 1, 10, 11: a teacher that counts 0, 1, 2 is the classic."""
    folders = sorted(map(str, range(100)))
    classes = np.repeat(np.arange(100), num)
    found = other_order(classes, np.array([int(folders[c]) for c in classes]), folders)
    assert found is not None and found.num_matched == 100 * num
    assert found.rule == "by the numbers in the names, 2 before 10"
    later = other_order(classes, (classes + 1) % 100, NAMES)
    assert later is not None and later.rule == (
        "one place later, as with a class of background first"
    )
    assert list(usual_orders(["B", "a", "c"])["by name, capitals like small letters"]) == [1, 0, 2]


def test_each_answer_stands_for_one_class() -> None:
    classes = np.array([0, 0, 0, 1, 1, 2, 2])
    answers = np.array([1, 1, 1, 1, 1, 1, 0])
    assert best_order(classes, answers, 3).tolist() == [1, -1, 0]
    tie = best_order(np.array([0, 0, 1]), np.array([1, 0, 1]), 2)
    assert tie.tolist() == [0, 1]  # where counts say nothing, as it should be


IMAGENET: tuple[str, ...] = tuple(ImageNetInfo("imagenet-1k").label_names())  # type: ignore[no-untyped-call]
PRETRAINED = Member(name="resnet18", pretrained=True)


def test_wordnet_ids_are_compared_with_the_librarys_order() -> None:
    assert names.order_problem(PRETRAINED, IMAGENET) is None
    swapped = (IMAGENET[1], IMAGENET[0], *IMAGENET[2:])
    said = names.order_problem(PRETRAINED, swapped)
    assert said == "class 0 of resnet18 is n01440764, that of the folders is n01443537"
    stranger = (*IMAGENET[:-1], "n99999999")
    assert "n99999999 is no class of imagenet-1k" in str(names.order_problem(PRETRAINED, stranger))
    assert names.order_problem(Member(name="resnet18", weights="x.pth"), swapped) is None
    assert names.order_problem(PRETRAINED, NAMES) is None
    assert "10 of ImageNet's 1,000 classes" in str(names.subset_hint(IMAGENET[:10]))
    assert names.subset_hint(IMAGENET) is None and names.subset_hint(NAMES) is None


SPEC = PixelSpec((8, 8), "bilinear", (0.5,) * 3, (0.5,) * 3, 0.875)


def test_other_pixels_must_be_much_better_and_not_by_luck() -> None:
    ways = [Alternative(str(number), SPEC, False, ("mean",)) for number in range(16)]
    random = np.random.default_rng(0)
    own = random.random(256) < 0.7
    same = np.stack([own ^ (random.random(256) < 0.08) for _ in ways])  # differ by luck alone
    assert better(own, same, ways) is None
    gains = same.copy()
    gains[5] |= random.random(256) < 0.5
    found = better(own, gains, ways)
    assert found is not None and found.alternative.name == "5"
    assert (found.num_before, found.num_right) == (own.sum(), gains[5].sum())
    many = np.arange(1000) > 200
    slightly = np.stack([many | (np.arange(1000) < 25)])
    assert better(many, slightly, ways[:1]) is None  # no luck, and not worth a word
    assert better(own[:8], np.ones((1, 8), dtype=bool), ways[:1]) is None  # too few to say


def test_answers_are_counted() -> None:
    logits = torch.arange(7.0).flip(0).repeat(5, 1) / 10
    logits[4, 6] = -math.inf
    logits[0, 3], logits[1, 2], logits[2, 0] = 5, 9, math.nan
    logits[3] = torch.arange(7.0)
    found = Answers.of(logits, np.array([3, 0, 0, 1, 0]))
    assert found.first.tolist() == [3, 2, -1, 6, -1]
    assert (found.num_right, found.top1, found.num_not_finite) == (1, 0.2, 2)
    assert found.in_five.tolist() == [True, True, False, False, False]
    expected = torch.softmax(logits[[0, 1, 3]].double(), 1).amax(1).mean()
    assert found.mean_max_prob == pytest.approx(float(expected), abs=1e-6)
    assert found.share_sure == 0.2


def few(num_right: int, num: int) -> Answers:
    first = np.arange(num) % 10
    wrong = np.where(np.arange(num) < num_right, first, (first + 1) % 10)
    return Answers(first, wrong, first == wrong, np.full(num, 0.5))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (few(51, 64), ["the teacher is right on 51 of 64 images"]),
        (few(2, 4), ["the teacher is right on 2 of 4 images, too few to tell from a guess"]),
    ],
)
def test_the_short_form_says_one_line(answers: Answers, expected: list[str]) -> None:
    assert check.lines(answers, 10) == expected


def test_the_short_form_is_loud_near_chance() -> None:
    said = check.lines(few(6, 64), 10, num_teachers=2)
    assert said[0] == "the 2 teachers together are right on 6 of 64 images"
    assert said[1].startswith("WARNING: the 2 teachers together are near chance on these 64 images")
    assert "`ferkd-pipeline teacher check`" in said[1]
    answers: Any = few(64, 64)
    answers.max_prob[3] = math.nan
    assert check.lines(answers, 10)[1] == "WARNING: NaN or infinity for 1 of these images"

"""Whether a teacher counts the classes in another order than the folders.

Shapes: N images, C classes. ``classes`` (N,) are the ground truth, ``answers`` (N,) what the
teacher says first.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.infer.examine.chance import is_more_often
from stages.infer.examine.sampling import ranks

Ids = NDArray[np.int64]

_RISK = 1e-3
_KNOWS = 0.4
"""Of what guessing leaves open, the share that a teacher must know in another order: a network that
knows nothing answers by colours too, and so is a little right in some order or other."""
_CLEARLY = 4
"""So many times oftener a class must be answered as the other than as itself."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A class whose images are mostly answered as another one."""

    class_id: int
    answered: int
    num_images: int
    num_answered: int
    """Of its images, those that are answered as ``answered``."""


@dataclass(frozen=True, slots=True)
class Order:
    """In which other order of classes the teacher would be right."""

    num_classes: int
    """Classes that were asked about."""
    num_judged: int
    """Images that could be judged."""
    num_right: int
    """Of these, right as the classes stand."""
    num_matched: int
    """Of these, right in the other order."""
    moved: tuple[Moved, ...]
    """Classes that stand elsewhere, those with the most images first."""
    rule: str | None
    """Which order that is, where it is a usual one."""


def other_order(classes: Ids, answers: Ids, names: Sequence[str]) -> Order | None:
    """The order of ``names`` (C,) that the answers are in; None where it is that of the names.

    A usual order is tried as it is. Any other one is learned from half of each class's images and
    judged on the other half, since an order that was fitted to few images always looks good.
    """
    known = _usual(classes, answers, names)
    return known if known is not None else _learned(classes, answers, len(names))


def best_order(classes: Ids, answers: Ids, num_classes: int) -> Ids:
    """One answer a class, no answer twice: that which its images have most often, (C,); -1: none.

    The commonest pairs first. Where a teacher counts in another order that is the best one there
    is; pairs as they should be go before others that are as common.
    """
    pairs, counts = np.unique(classes * num_classes + answers, return_counts=True)
    own, answered = np.divmod(pairs, num_classes)
    found = np.full(num_classes, -1, dtype=np.int64)
    is_taken = np.zeros(num_classes, dtype=bool)
    for place in np.lexsort((pairs, own != answered, -counts)):
        if found[own[place]] < 0 and not is_taken[answered[place]]:
            found[own[place]] = answered[place]
            is_taken[answered[place]] = True
    return found


def _learned(classes: Ids, answers: Ids, num_classes: int) -> Order | None:
    order = np.argsort(classes, kind="stable")
    half = np.empty(len(classes), dtype=np.int64)
    half[order] = ranks(classes[order]) % 2
    matched = np.zeros(len(classes), dtype=bool)
    judged = np.zeros(len(classes), dtype=bool)
    for own in (0, 1):
        here, there = half == own, half != own
        found = best_order(classes[there], answers[there], num_classes)
        matched[here] = answers[here] == found[classes[here]]
        judged[here] = np.isin(classes[here], classes[there])
    whole = best_order(classes, answers, num_classes)
    moved = _moved(classes, answers, whole, least=2)
    return _judge(classes, answers, matched, judged, num_classes, moved, None)


def _usual(classes: Ids, answers: Ids, names: Sequence[str]) -> Order | None:
    everything = np.ones(len(classes), dtype=bool)
    found = []
    for rule, order in usual_orders(names).items():
        moved = _moved(classes, answers, order, least=1)
        matched = answers == order[classes]
        if judged := _judge(classes, answers, matched, everything, len(names), moved, rule):
            found.append(judged)
    return max(found, key=lambda each: each.num_matched, default=None)


def _judge(
    classes: Ids,
    answers: Ids,
    matched: NDArray[np.bool_],
    judged: NDArray[np.bool_],
    num_classes: int,
    moved: tuple[Moved, ...],
    rule: str | None,
) -> Order | None:
    right, matched = (answers == classes)[judged], matched[judged]
    chance = 1 / num_classes
    needed = (chance + _KNOWS * (1 - chance)) * len(matched)
    num_gained, num_lost = int((matched & ~right).sum()), int((right & ~matched).sum())
    is_other = is_more_often(num_gained, num_lost, _RISK)
    if len(moved) < 2 or not is_other or matched.sum() < needed:
        return None
    num_asked = len(np.unique(classes))
    return Order(num_asked, len(matched), int(right.sum()), int(matched.sum()), moved, rule)


def _moved(classes: Ids, answers: Ids, order: Ids, least: int) -> tuple[Moved, ...]:
    """Classes that stand elsewhere in ``order`` (C,), where ``least`` images or more say so."""
    num_classes = len(order)
    num_images = np.bincount(classes, minlength=num_classes)
    num_own = np.bincount(classes[answers == classes], minlength=num_classes)
    num_other = np.bincount(classes[answers == order[classes]], minlength=num_classes)
    is_moved = (order != np.arange(num_classes)) & (order >= 0)
    is_moved &= (num_other >= least) & (num_other >= _CLEARLY * num_own)
    found = [
        Moved(int(c), int(order[c]), int(num_images[c]), int(num_other[c]))
        for c in np.flatnonzero(is_moved)
    ]
    return tuple(sorted(found, key=lambda each: (-each.num_answered, each.class_id)))


def usual_orders(names: Sequence[str]) -> dict[str, Ids]:
    """Other orders that classes are often counted in, (C,) each: the place of every class in it."""
    rules: dict[str, Callable[[str], Any]] = {
        "by the numbers in the names, 2 before 10": _natural,
        "by name, capitals like small letters": lambda name: (name.casefold(), name),
    }
    places = np.arange(len(names))
    found = {}
    for rule, key in rules.items():
        by_rule = {name: place for place, name in enumerate(sorted(names, key=key))}
        found[rule] = np.array([by_rule[name] for name in names], dtype=np.int64)
    found["one place later, as with a class of background first"] = (places + 1) % len(names)
    found["one place earlier"] = (places - 1) % len(names)
    return {rule: order for rule, order in found.items() if not np.array_equal(order, places)}


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]

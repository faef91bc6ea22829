"""Whether a teacher knows more than a guess, from how often it was right on few or many images."""

import math
from typing import Literal

Verdict = Literal["fine", "unclear", "near chance"]

_RISK = 0.01
"""Probability of a wrong verdict that is accepted, on each side."""


def near_chance_below(num_classes: int) -> float:
    """Share of right answers under which a teacher is near chance, however many images say so."""
    chance = 1 / num_classes
    return min(2 * chance, chance + 0.1 * (1 - chance))


def verdict(num_right: int, num_images: int, num_classes: int) -> Verdict:
    """What ``num_right`` of ``num_images`` answers say of a teacher of ``num_classes`` classes.

    ``near chance``: a guess could well be right so often, or the share is that of a teacher near
    chance; and a teacher that knows half of what guessing leaves open would hardly ever be right so
    seldom. ``unclear``: both could be.
    """
    chance = 1 / num_classes
    is_few = num_right < near_chance_below(num_classes) * num_images
    if num_classes < 2 or not (is_few or at_least(num_right, num_images, chance) > _RISK):
        return "fine"
    half_way = chance + (1 - chance) / 2
    is_poor = 1 - at_least(num_right + 1, num_images, half_way) <= _RISK
    return "near chance" if is_poor else "unclear"


def at_least(num_right: int, num_tries: int, probability: float) -> float:
    """Probability of ``num_right`` or more successes in ``num_tries``, of a binomial law."""
    if num_right <= 0:
        return 1.0
    if not 0 < probability < 1:
        return float(probability >= 1 and num_right <= num_tries)
    yes, no = math.log(probability), math.log1p(-probability)
    total = math.lgamma(num_tries + 1)
    logs = [
        total - math.lgamma(k + 1) - math.lgamma(num_tries - k + 1) + k * yes + (num_tries - k) * no
        for k in range(num_right, num_tries + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


def is_more_often(num_gained: int, num_lost: int, risk: float) -> bool:
    """Whether gains outnumber losses by more than luck would, with that risk (sign test)."""
    return at_least(num_gained, num_gained + num_lost, 0.5) < risk

"""Rounding a label to the grids of precision ``compact`` so that it loses little as a whole.

Shapes: N rows (crops), K stored classes.

The most probable class goes to its cell. What that adds or takes is shared by the others in
proportion, so that only the split between it and them has changed; then the second is rounded and
what is left again shared by those after it, down to the classes that are not stored. By the chain
rule of the Kullback-Leibler divergence the losses of these splits add up. Splitting x from what
comes after it, y, costs about d**2 (1/x + 1/y) / 2 for a rounding error of d, so each loss is
known as it is made: where a coarse level would lose too much, a fine one is taken. Top-5 labels of
1,000 classes whose maxima follow FerKD's Table 1 lose 7.5e-5 in the mean, and no label can lose
much: where little is left, steps are small. docs/design/0004-compact-precision.md has more.

One label in some thirty is kept finer, whatever it loses: a Parquet dictionary of more than 128
values has an index of a whole byte, which zstd packs near its entropy, and 7 bits it does not. That
saves 0.15 bytes a crop at K = 5.
"""

import numpy as np
from numpy.typing import NDArray

from store.precision import FINE, FINEST, HALF, THIRD, Levels, round_maximum

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_LEVELS = ((5, THIRD), (6, HALF), (20, FINE))
"""Coarse levels by the largest K that they serve: the more splits, the less each may lose."""
_COARSE_LOSS = 1.5e-4
"""Twice the divergence that one split may cost on the coarse levels .."""
_FINE_LOSS = 5e-4
""".. and on the fine ones. Beyond it steps are what loses less .."""
_SMALLEST_STEP = 2.0**-16
""".. but not below this: a tail that is off by so little loses no more than that."""
_FINEST_FROM = 3
"""From this rank on, probabilities are so small that few of the fine levels are met."""
_BLOCK_ROWS = 1 << 13
_TINY = np.finfo(np.float64).tiny


def round_label(probs: F64, num_classes: int, *, has_tail: bool, has_outside: bool = False) -> F32:
    """Return labels on the grids, (N, K) float32, falling with k.

    Args:
        probs: (N, K) at least 0, falling; they may sum to more than 1 by rounding. A row of NaN
            (a rejected crop) becomes anything.
        num_classes: C, at least K.
        has_tail: whether classes that are not stored have what is missing to 1. If so, what is
            stored sums to at most 1, and to less where more than 1e-15 is missing; and none of
            these classes has more than one that is stored.
        has_outside: whether the last column is no rank but a class of its own, which may have less
            than the classes that are not stored.
    """
    stored = np.empty(probs.shape, dtype=np.float32)
    with np.errstate(invalid="ignore"):  # NaN cast to integers
        for start in range(0, len(probs), _BLOCK_ROWS):
            cut = slice(start, start + _BLOCK_ROWS)
            _round_block(probs[cut], stored[cut], num_classes, has_tail, has_outside)
    return stored


def _round_block(
    probs: F64, stored: F32, num_classes: int, has_tail: bool, has_outside: bool
) -> None:
    num_stored = probs.shape[1]
    coarse = next((levels for most, levels in _LEVELS if num_stored <= most), FINEST)
    stored[:, 0] = round_maximum(probs[:, 0], "compact", num_classes)
    sampled = _sampled(stored[:, 0])
    left = 1.0 - stored[:, 0].astype(np.float64)
    # Summed from the last class on: subtracting from 1 would lose what is far below 1e-16.
    true_left = np.cumsum(probs[:, ::-1], axis=1)[:, ::-1]
    true_left += np.maximum(1.0 - true_left[:, :1], 0.0)
    for k in range(1, num_stored):
        above = stored[:, k - 1]
        x = np.minimum(probs[:, k] / np.maximum(true_left[:, k], _TINY), 1.0) * left
        after = left - x if has_tail or k < num_stored - 1 else None
        rounded = _nearest(x, after, coarse)
        finer = FINE if k < _FINEST_FROM else FINEST
        rounded[sampled] = finer.nearest(x[sampled])
        np.minimum(rounded, above, out=rounded)
        if after is not None:
            _leave_room(rounded, x, left)
            num_left = num_classes - k
            if has_outside and k == num_stored - 1:
                _leave_no_more(rounded, left - (num_left - 1) * above.astype(np.float64), left)
            else:
                _leave_no_more(rounded, left / num_left, left)
            np.minimum(rounded, above, out=rounded)
        stored[:, k] = rounded
        left = np.maximum(left - rounded, FINE.values[1])


def _nearest(x: F64, after: F64 | None, coarse: Levels) -> F32:
    """Round (N,) probabilities, others having what comes ``after`` them (None: nothing does)."""
    rounded = coarse.nearest(x)
    error = rounded - x
    if after is None:
        lossy = np.flatnonzero(error * error > _COARSE_LOSS * x)
    else:
        lossy = np.flatnonzero(_is_lossy(error, x, after, _COARSE_LOSS))
    rounded[lossy] = FINE.nearest(x[lossy])
    return rounded


def _leave_room(rounded: F32, x: F64, left: F64) -> None:
    """Lower (N,) values where they take all that is left, or much of it from what comes after."""
    full = np.flatnonzero(rounded >= left)
    rounded[full] = FINE.below(left[full])
    after = left - x
    lossy = np.flatnonzero(_is_lossy(rounded - x, x, after, _FINE_LOSS) & (x >= _SMALLEST_STEP))
    if len(lossy):
        rounded[lossy] = _just_below(x[lossy], left[lossy], after[lossy])


def _leave_no_more(rounded: F32, least: F64, left: F64) -> None:
    """Raise (N,) values that would leave more for a class behind them than they are."""
    low = np.flatnonzero((rounded < least) & (rounded > 0))
    if len(low):
        x, left = least[low], left[low]
        raised, exact = FINE.at_least(x), x.astype(np.float32)
        exact = np.where(exact < x, np.nextafter(exact, np.float32(1)), exact)
        is_lossy = (raised >= left) | _is_lossy(raised - x, x, left - x, _FINE_LOSS)
        rounded[low] = np.where(is_lossy, exact, raised)


def _is_lossy(error: F64, x: F64, after: F64, most: float) -> NDArray[np.bool_]:
    """Return where error**2 (1/x + 1/after) exceeds ``most``."""
    found: NDArray[np.bool_] = error * error * (x + after) > most * x * after
    return found


def _just_below(x: F64, left: F64, after: F64) -> F32:
    """Return (N,) values at most a step below ``x`` and below what is left."""
    wanted = np.sqrt(_FINE_LOSS * np.maximum(after, _TINY)) / 2
    step = np.maximum(np.ldexp(1.0, np.frexp(wanted)[1] - 1), _SMALLEST_STEP)
    below = np.floor(x / step) * step
    below -= np.where(below >= left, step, 0.0)
    return np.where(below > 0, below, FINE.below(left)).astype(np.float32)


def _sampled(first: F32) -> NDArray[np.intp]:
    """Return the rows that are kept finer: those of every 32nd cell of the first probability."""
    return np.flatnonzero((first * np.float32(200)).astype(np.int32) % 32 == 25)

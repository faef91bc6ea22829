"""The grids that probabilities are rounded to, so that files compress and values are real numbers.

Precision ``float16``: every probability is the nearest float16.

Precision ``compact``: a label's first probability, the largest, lies on a linear grid of 13 bits
(n / 8192, 0 <= n <= 8192), its other ones on 256 levels, twelve an octave as the keys of a piano:
0 and 2**-(1 + j / 12) for j = 0 .. 254, that is from 0.5 (no other probability is larger) to
2.1e-7. Rounding one logarithmically errs by 2.9 % of it at most. The first one is linear because
its error moves the tail: a logarithmic one costs 1.6e-3 of mean KL. Top-5 labels of 1000 classes
whose maxima follow FerKD's Table 1 lose 6e-5 (tests/store/test_codecs.py keeps it below 1e-4).

All values are exact float32: level j is a float32 of `_SEMITONES` times a power of two, so no
library's power function can change a bit.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Precision = Literal["float16", "compact"]

LINEAR_STEPS = 8192
"""Steps of the linear grid of ``compact`` in [0, 1]."""

F32 = NDArray[np.float32]

# 2**(-j / 12) rounded to float32, j = 0 .. 11.
_SEMITONES = (
    1.0,
    0.9438742995262146,
    0.8908987045288086,
    0.8408964276313782,
    0.7937005162239075,
    0.7491535544395447,
    0.7071067690849304,
    0.6674199104309082,
    0.6299605369567871,
    0.5946035385131836,
    0.5612310171127319,
    0.5297315716743469,
)
_NUM_LEVELS = 256
_INDEX_SHIFT = 15  # leaves a float32's exponent and 8 bits: 0.4 %, one border at most


def round_probability(x: ArrayLike, precision: Precision) -> F32:
    """Round what stands alone or comes first: max_prob, target_prob, prob_0, a threshold.

    Any shape, values in [0, 1] or NaN (which stays). Returns float32 on the float16 grid or on the
    13-bit linear grid, ties to even.
    """
    values = np.asarray(x, dtype=np.float64)
    if precision == "float16":
        return _float16(values)
    return (np.rint(values * LINEAR_STEPS) / LINEAR_STEPS).astype(np.float32)


def round_kept(x: ArrayLike, precision: Precision) -> F32:
    """Round a label's other probabilities: prob_1, prob_2 .. and a kept target's.

    Any shape, values in [0, 0.5] (larger ones become 0.5 in ``compact``), NaN stays in
    ``float16`` only. Returns float32 on the float16 grid or the nearest of the 256 levels.
    """
    if precision == "float16":
        return _float16(np.asarray(x, dtype=np.float64))
    values = np.asarray(x, dtype=np.float32)
    # Clipped, because a NaN may have its sign bit set; what becomes of it is the caller's matter.
    level = _LEVEL_BELOW.take(values.view(np.uint32) >> np.uint32(_INDEX_SHIFT), mode="clip")
    return LEVELS.take(level + (values >= _BORDERS.take(level)))


def _float16(values: NDArray[np.float64]) -> F32:
    return values.astype(np.float16).astype(np.float32)


def _levels() -> F32:
    """Return the 256 levels of ``compact``, ascending: 0 and then 254 semitones up to 0.5."""
    steps = np.arange(_NUM_LEVELS - 2, -1, -1)
    mantissas = np.array(_SEMITONES, dtype=np.float32)[steps % 12]
    return np.append(np.float32(0), np.ldexp(mantissas, -1 - steps // 12)).astype(np.float32)


LEVELS: F32 = _levels()
"""(256,) ascending: what `round_kept` gives in ``compact``."""

# (256,): from the border on, a value goes to the next level. Nothing goes above the last.
_BORDERS = np.append((LEVELS[1:] + LEVELS[:-1]) / 2, np.inf).astype(np.float32)
# Level of the lowest float32 of every index; then only the one border inside it is compared.
_LEVEL_BELOW = np.searchsorted(
    _BORDERS,
    (np.arange(2**16, dtype=np.uint32) << np.uint32(_INDEX_SHIFT)).view(np.float32),
    side="right",
).clip(max=_NUM_LEVELS - 1)

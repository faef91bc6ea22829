"""The grids that probabilities are rounded to, so that files compress and values are real numbers.

Precision ``float16``: every probability is the nearest float16.

Precision ``compact`` has two grids of at most 256 values each, so that a Parquet dictionary's
index is one byte, which zstd packs near its entropy.

- Cells, for what stands alone or comes first (max_prob, target_prob, prob_0). [0.02, 0.98] is cut
  into cells of 0.005; from there to 0.001 and 0.999 they are 0.001 wide, then 0.0001, the last
  ones at 5, 2 and 1 of 100,000. A value becomes the middle of its cell. A border belongs to the
  cell above it and, met exactly, stays itself: a threshold on a border (0.05, 0.3, 0.95, 0.999)
  takes the very crops that it would take of unrounded probabilities.
- Levels, for a label's other probabilities: evenly spaced in the root of the probability. That is
  the spacing that loses least for its size: rounding p by d costs about d**2 / (2 p) of
  Kullback-Leibler divergence, which even steps of the root make the same everywhere.

All values are exact float32 of products and quotients, so no library's power function can change
a bit. What a label loses on these grids: `store.compact`.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Precision = Literal["float16", "compact"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def round_probability(x: ArrayLike, precision: Precision) -> F32:
    """Round what stands alone or comes first: max_prob, target_prob, prob_0, a threshold.

    Any shape, values in [0, 1] or NaN (which stays). Returns float32 on the float16 grid or the
    middles of cells; 1 lies in the last cell.
    """
    values = np.asarray(x, dtype=np.float64)
    return float16(values) if precision == "float16" else _CELLS.round(values)


def round_maximum(x: ArrayLike, precision: Precision, num_classes: int) -> F32:
    """Round largest probabilities of C classes, which are at least 1 / C and stay so.

    So no class that shares in what is missing to 1 comes to have more. As `round_probability`
    else, and in the same cell.
    """
    least = np.float32(1 / num_classes)
    if precision == "float16":
        nearest = np.float16(least)
        least = np.float32(nearest if nearest >= least else np.nextafter(nearest, np.float16(1)))
    elif float(least) < 1 / num_classes:
        least = np.nextafter(least, np.float32(1))
    return np.maximum(round_probability(x, precision), least)


def float16(values: F64) -> F32:
    """Round to the nearest float16, as float32."""
    return values.astype(np.float16).astype(np.float32)


def _borders() -> F64:
    """Return the 257 borders of the cells, ascending, from 0 to 1: decimals, rounded once."""
    hundred_thousandths = [0, 1, 2, 5, *range(10, 100, 10), *range(100, 2000, 100)]
    middle = range(2000, 98_001, 500)
    mirrored = [100_000 - n for n in reversed(hundred_thousandths)]
    return np.array([*hundred_thousandths, *middle, *mirrored]) / 100_000


class _Cells:
    """Rounding to the middle of a cell; borders that are met exactly stay."""

    _SLOTS = 1 << 12

    def __init__(self, borders: F64) -> None:
        self.borders = borders
        self.middles = ((borders[1:] + borders[:-1]) / 2).astype(np.float32)
        # Cell of the lower end of each slot; [0.02, 0.98] has no two borders in one.
        starts = np.arange(self._SLOTS + 1) / self._SLOTS
        self._cell_of_slot = self._search(starts)
        self._is_coarse = np.diff(self._cell_of_slot, append=self._cell_of_slot[-1]) <= 1

    def _search(self, values: F64) -> NDArray[np.intp]:
        found = np.searchsorted(self.borders, values, side="right") - 1
        return np.clip(found, 0, len(self.middles) - 1)

    def round(self, values: F64) -> F32:
        flat = values.reshape(-1)
        slot = np.nan_to_num(flat * self._SLOTS).astype(np.intp)
        cell = self._cell_of_slot.take(slot, mode="clip")
        above = self.borders.take(cell + 1)
        cell += (flat >= above) & (cell < len(self.middles) - 1)
        fine = np.flatnonzero(~self._is_coarse.take(slot, mode="clip"))
        cell[fine] = self._search(flat[fine])
        rounded = self.middles.take(cell)
        exact = np.flatnonzero(flat == self.borders.take(cell))
        rounded[exact] = flat[exact]
        rounded[np.isnan(flat)] = np.nan
        return rounded.reshape(values.shape)


_CELLS = _Cells(_borders())

NUM_STEPS = 230
"""Fine steps of the root of a probability, from 0 to the root of 1/2: no other one is larger."""
_LOWEST = tuple(2.0**-power for power in (40, 32, 28, 24, 22, 20, 18))


class Levels:
    """Rounding of (N,) probabilities that are not first to levels even in their root."""

    def __init__(self, num_steps: int, every: int = 1) -> None:
        """Prepare the levels n**2 / (2 num_steps**2); of them one in ``every``.

        Below them lie 0 and some powers of 2, so that no class that a label holds possible
        becomes impossible: only 0 is rounded to 0.
        """
        steps = np.arange(1, num_steps + 1, dtype=np.float64)
        squares = steps * steps / (2 * num_steps * num_steps)
        chosen = (steps % every == num_steps % every) | (steps <= 2)
        squares = squares[chosen & (squares > _LOWEST[-1])]
        self.values: F32 = np.array([0.0, *_LOWEST, *squares], dtype=np.float32)
        """Ascending, from 0 to 0.5."""
        borders = ((self.values[1:] + self.values[:-1]) / 2).astype(np.float32)
        borders[0] = np.nextafter(np.float32(0), np.float32(1))
        self._nearest = _Intervals(borders)
        self._below = _Intervals(np.nextafter(self.values[1:], np.float32(1)))

    def nearest(self, x: F64) -> F32:
        """Return the nearest level, of two the upper one; for a NaN anything."""
        return self.values.take(self._nearest.index(x.astype(np.float32)))

    def at_least(self, x: F64) -> F32:
        """Return the smallest level that is not less than ``x``, of at most 0.5."""
        place = np.searchsorted(self.values.astype(np.float64), x)
        return self.values.take(place, mode="clip")

    def below(self, x: F64) -> F32:
        """Return the largest level that is less than ``x``; 0 where there is none."""
        return self.values.take(self._below.index(x.astype(np.float32)))


class _Intervals:
    """Which interval between ascending borders a float32 lies in, by a table of its first bits."""

    _SHIFT = np.uint32(15)  # leaves the exponent and 8 bits, 0.4 %: one border at most

    def __init__(self, borders: F32) -> None:
        self._borders = np.append(borders, np.float32(np.inf))
        lowest = (np.arange(2**16, dtype=np.uint32) << self._SHIFT).view(np.float32)
        self._first = np.searchsorted(borders, lowest, side="right").clip(max=len(borders))

    def index(self, x: F32) -> NDArray[np.intp]:
        # Clipped: a NaN may have its sign bit set.
        first = self._first.take(x.view(np.uint32) >> self._SHIFT, mode="clip")
        found: NDArray[np.intp] = first + (x >= self._borders.take(first))
        return found


THIRD, HALF = Levels(NUM_STEPS, every=3), Levels(NUM_STEPS, every=2)
FINE, FINEST = Levels(NUM_STEPS), Levels(2 * NUM_STEPS)

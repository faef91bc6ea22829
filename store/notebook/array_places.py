"""Which images an index of numpy's kind needs, and what is left of it once these are read.

Shapes: N images of an array, n images that are needed.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.intp]

_GAP_BYTES = 1 << 20
"""Between two images; so much is read on the way rather than in a read of its own."""
_RUN_BYTES = 1 << 26
"""Of one read: what an index leaves out of it need not fit in memory with the others."""


def split(places: Any, shape: tuple[int, ...]) -> tuple[Places, tuple[Any, ...]]:
    """Images (n,) that ``places`` needs of an array of ``shape``, ascending, and the rest.

    The rest is an index, never empty, that gives of an array (n, ...) of these images what
    ``places`` gives of the whole.

    Raises:
        IndexError: there is no such place, or one is a bool, which is never meant as a place.
    """
    given = places if isinstance(places, tuple) else (places,)
    items = tuple(_item(each) for each in given)
    # An array without memory of its own says what numpy says, before anything is read.
    np.broadcast_to(np.False_, shape)[items]
    first, *rest = _expanded(items, len(shape))
    everything = np.arange(shape[0], dtype=np.intp)
    if first is None or first is Ellipsis:
        return everything, (first, *rest)
    if isinstance(first, slice):
        backwards = first.step is not None and first.step < 0
        wanted = everything[first]
        step = slice(None, None, -1) if backwards else slice(None)
        return (wanted[::-1] if backwards else wanted), (step, *rest)
    if isinstance(first, int):
        return everything[first : first + 1 or None], (0, *rest)
    wanted, inverse = np.unique(everything[first], return_inverse=True)
    return wanted, (inverse.reshape(first.shape), *rest)


def runs(wanted: Places, image_bytes: int) -> Iterator[slice]:
    """Parts of ``wanted`` (n,), ascending, that are read at once: neighbours, bounded in bytes."""
    size = max(1, image_bytes)
    far = np.diff(wanted) > 1 + _GAP_BYTES // size
    other = np.diff(wanted // max(1, _RUN_BYTES // size)) > 0
    cuts = [0, *(np.flatnonzero(far | other) + 1).tolist(), len(wanted)]
    for start, stop in pairwise(cuts):
        if stop > start:
            yield slice(start, stop)


def _item(given: Any) -> Any:
    """One part of an index: None, Ellipsis, a slice, an int or an array."""
    if given is None or given is Ellipsis or isinstance(given, slice):
        return given
    found = np.asarray(given)
    if found.size == 0 and isinstance(given, list):
        found = found.astype(np.intp)
    if found.ndim:
        return found
    if found.dtype.kind not in "iu":
        raise IndexError(
            f"{given!r} is no place in an array; allowed: whole numbers, slices, arrays of either "
            "numbers or bools"
        )
    return int(found)


def _expanded(items: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """The same index; its first part says which images: no mask, no `...` that stands for axes."""
    first, *rest = items or (slice(None),)
    if first is Ellipsis:
        used = sum(_axes(each) for each in rest)
        return (*[slice(None)] * (ndim - used), *rest) if used < ndim else items
    if isinstance(first, np.ndarray) and first.dtype == bool:
        return (*first.nonzero(), *rest)
    return (first, *rest)


def _axes(item: Any) -> int:
    if item is None:
        return 0
    return item.ndim if isinstance(item, np.ndarray) and item.dtype == bool else 1

"""Which images stand for all: spread over the classes, the same ones every time."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SEED = 20230804


def spread(class_ids: ArrayLike, num: int, per_class: int = 1) -> NDArray[np.int64]:
    """Rows of ``num`` images of ``class_ids`` (N,), ascending; all N where there are no more.

    Of each class ``per_class`` images at a time, in an order drawn from a fixed seed, so that fewer
    images than classes leave classes out and do not favour the first ones.
    """
    ids = np.asarray(class_ids, dtype=np.int64)
    if num >= len(ids):
        return np.arange(len(ids))
    random = np.random.Generator(np.random.Philox(_SEED))
    order = random.permutation(len(ids))
    order = order[np.argsort(ids[order], kind="stable")]
    rank = ranks(ids[order])
    turn = random.permutation(int(ids.max()) + 1)[ids[order]]
    chosen = np.lexsort((rank, turn, rank // per_class))[:num]
    return np.sort(order[chosen])


def ranks(sorted_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each image within its class, from 0 on; ``sorted_ids`` (N,) ascend."""
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=sorted_ids[:1] - 1))
    sizes = np.diff(starts, append=len(sorted_ids))
    return np.arange(len(sorted_ids)) - np.repeat(starts, sizes)

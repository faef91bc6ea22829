"""How labels with a value of every class are stored: kinds `full` and `logits`.

Shapes: N rows (crops), C classes (or outputs of a projection head). See `store.codecs` for kinds.
"""

import numpy as np
from numpy.typing import NDArray

from store.codecs import Normalize

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def encode_full(probs: NDArray[np.floating]) -> F32:
    """Return (N, C) probabilities rounded to the float16 grid, NaN where they were.

    The most probable class (ties: the lowest id) stays the only first maximum: a class of lower
    id that rounding made equal to it is put one float16 below.
    """
    rounded = np.asarray(probs).astype(np.float16)
    first = np.asarray(probs).argmax(axis=1)
    rows = np.flatnonzero(rounded.argmax(axis=1) != first)
    if len(rows):
        top = rounded[rows, first[rows]][:, None]
        before = np.arange(rounded.shape[1]) < first[rows][:, None]
        tied = (rounded[rows] == top) & before
        rounded[rows] = np.where(tied, np.nextafter(top, np.float16(0)), rounded[rows])
    return rounded.astype(np.float32)


def decode_full(stored: NDArray[np.floating]) -> F64:
    """Return what `encode_full` stored as (N, C) probabilities that sum to 1."""
    probs = np.asarray(stored, dtype=np.float64)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))


def encode_logits(logits: NDArray[np.floating], normalize: Normalize) -> NDArray[np.float16]:
    """Return (N, C) logits as stored: divided by their Euclidean norm where asked for, float16.

    A row of NaN (a rejected crop) stays. A row of zeros has no direction and stays, too.

    Raises:
        ValueError: a value is infinite, or too large for float16 (above 65504).
    """
    values = np.asarray(logits, dtype=np.float64)
    if normalize == "l2":
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        values = values / np.where(norms == 0, 1.0, norms)
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16)
    if np.isinf(stored).any():
        row, place = np.argwhere(np.isinf(stored))[0]
        raise ValueError(
            f"logit {place} of row {row} is {logits[row, place]}, allowed: -65504 to 65504"
        )
    return stored


def decode_logits(stored: NDArray[np.floating]) -> F64:
    """Return what `encode_logits` stored as (N, C) float64: the logits, to float16's precision."""
    return np.asarray(stored, dtype=np.float64)

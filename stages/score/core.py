"""What an image's score is made of, from what a proxy says of it: arrays to arrays.

Shapes: B images of a batch, N images, C classes. A higher score deserves the teacher more.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.shared.contract import Json

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

QUANTILES = (0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0)
"""Of the scores of a store, as its entry reports them."""


def log_softmax(logits: F32, temperature: float = 1.0) -> F64:
    """Return log-probabilities (B, C) in double precision."""
    values = logits.astype(np.float64) / temperature
    values -= values.max(axis=1, keepdims=True)
    return np.asarray(values - np.log(np.exp(values).sum(axis=1, keepdims=True)))


def loss(logits: F32, targets: NDArray[np.integer]) -> F64:
    """Return the cross-entropy (B,) with the ground truth."""
    return -np.take_along_axis(log_softmax(logits), targets[:, None], axis=1)[:, 0]


def el2n(logits: F32, targets: NDArray[np.integer]) -> F64:
    """Return the Euclidean norm (B,) of probabilities less the one-hot ground truth."""
    errors = np.exp(log_softmax(logits))
    errors[np.arange(len(errors)), targets] -= 1
    return np.asarray(np.sqrt((errors**2).sum(axis=1)))


def disagreement(logits: F32, labels: F64, temperature: float) -> F64:
    """Return KL(labels || softmax(logits / T)) (B,); NaN where a label (B, C) is NaN."""
    own = log_softmax(logits, temperature)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.where(labels > 0, labels * np.log(labels), labels).sum(axis=1)
    return np.asarray(np.maximum(entropy - (labels * own).sum(axis=1), 0))


class Forgotten:
    """Counts, over looks at all images, how often one that was right is wrong at the next look."""

    def __init__(self, num_images: int) -> None:
        """Nothing was looked at yet."""
        self._was_right = np.zeros(num_images, dtype=np.bool_)
        self._was_ever_right = np.zeros(num_images, dtype=np.bool_)
        self._events = np.zeros(num_images, dtype=np.int32)

    def look(self, rows: NDArray[np.integer], is_right: NDArray[np.bool_]) -> None:
        """Note at the next look whether each of ``rows`` is right."""
        self._events[rows] += self._was_right[rows] & ~is_right
        self._was_right[rows] = is_right
        self._was_ever_right[rows] |= is_right

    def scores(self, num_looks: int) -> F64:
        """Return the events (N,); ``num_looks``, more than any count, where never right."""
        return np.where(self._was_ever_right, self._events, num_looks).astype(np.float64)


def mean_labels(
    class_ids: NDArray[np.int32], weights: F32, tail: F32, num_crops: int, num_classes: int
) -> F64:
    """Return the mean label (B, C) of each image's M crops; NaN where a crop was rejected.

    Args:
        class_ids: (B * M, E) of entries over a tail, -1 in rejected rows.
        weights: (B * M, E), NaN in rejected rows.
        tail: (B * M,)
        num_crops: M.
        num_classes: C.
    """
    num_images = len(tail) // num_crops
    images = np.repeat(np.arange(num_images), num_crops * class_ids.shape[1])
    places = images * num_classes + np.maximum(class_ids.ravel(), 0)
    total = np.bincount(places, weights.ravel(), minlength=num_images * num_classes)
    rest = tail.reshape(num_images, num_crops).mean(axis=1, dtype=np.float64)
    labels = total.reshape(num_images, num_classes) / num_crops + rest[:, None]
    labels[np.isnan(labels).any(axis=1)] = np.nan
    return np.asarray(labels)


def random_scores(num_images: int, seed: int) -> F64:
    """Return scores (N,) that are even in 0 to 1, the same in every version of numpy."""
    words = np.random.Philox(key=np.array([seed, 0x73636F7265], dtype=np.uint64))
    return np.asarray(words.random_raw(num_images) / 2.0**64)


def random_rows(num_images: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return at most ``most`` of the images, drawn at random without repeats, sorted."""
    order = np.argsort(random_scores(num_images, seed), kind="stable")
    return np.sort(order[:most])


def middles(num_steps: int, parts: int) -> tuple[int, ...]:
    """Return the steps in the middle of so many equal parts of a training, each once."""
    found = (round((2 * part + 1) * num_steps / (2 * parts)) for part in range(parts))
    return tuple(sorted({max(1, step) for step in found}))


def summary(scores: Sequence[float] | F32) -> dict[str, Json]:
    """Return counts and quantiles of scores (N,), in which NaN stands for none."""
    values = np.asarray(scores, dtype=np.float64)
    scored = values[~np.isnan(values)]
    numbers: dict[str, Json] = {"num_images": len(values), "num_scored": len(scored)}
    if len(scored):
        found = np.quantile(scored, QUANTILES, method="inverted_cdf")
        quantiles: dict[str, Json] = {
            f"{share:g}": float(f"{value:.6g}")
            for share, value in zip(QUANTILES, found, strict=True)
        }
        numbers["quantiles"] = quantiles
    return numbers

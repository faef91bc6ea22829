"""Realistic synthetic labels of any size: what a strong, label-smoothed teacher says of crops.

Shapes: N images, M crops an image, C classes, S candidates of an image, R ranked classes, B images
of a block.

- Every class has a list of classes that it is confused with, mostly near ones; an image takes its
  candidates from the list of its class, and all its crops share them.
- The largest probability follows FerKD's Table 1: a Gaussian of which the image explains 0.55 (its
  difficulty) and the crop the rest, sent through the table's quantiles.
- What is left goes partly to the candidates (a share that the image has) and partly evenly to all
  classes. The larger the maximum, the more often the target has it; where it has not, it stands
  at a lower rank, or below all that are ranked.

Blocks of images have generators of their own, keyed by (seed, block): any shard can be made alone.

Seen of 2,000 images, M = 200, R = 5 (`benchmarks/entropy.py`): class ids given the image have 14.9
bits a crop (ranks: 0.5, 3.2, 3.6, 3.8, 3.9), float16 probabilities 59.5 rank by rank. The maximum
is the target's in 93 % of the crops; the target is among the first five in 99.9 %.
"""

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arrays import Labels, Ranked
from store.images import ImageTable
from store.random import CropPlan, draw_boxes, draw_flips, path_hashes

EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
SHARES = (0.43, 0.89, 1.29, 2.03, 3.66, 4.35, 5.04, 7.76, 8.14, 28.73, 37.34, 0.33)
"""FerKD's Table 1: percent of crops whose largest probability lies between two edges."""

MAX_RANKED = 16
_BLOCK = 32
"""Images of a block: its arrays stay in the cache."""
_CANDIDATES = 23
_CONFUSABLE = 40
_SPREAD = 8.0
"""Scale of the Cauchy distance between the ids of confused classes."""
_FROM_IMAGE = 0.55
"""Share of the variance of the maximum that the image explains."""
_CROP_NOISE = 1.6
_FLOOR = 0.012
"""Smallest maximum: Table 1's first interval begins at 0, which no softmax reaches."""

# Height, width and how often, roughly as in ImageNet.
_SIZES = ((375, 500, 0.58), (500, 375, 0.2), (333, 500, 0.12), (500, 333, 0.05), (480, 640, 0.05))

F32 = NDArray[np.float32]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A data set that does not exist; shards of it are made when asked for."""

    num_images: int
    num_crops: int = 200
    num_classes: int = 1000
    num_ranked: int = 5
    """R, at most 16."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers; raises ValueError."""
        if not 1 <= self.num_ranked <= MAX_RANKED:
            raise ValueError(f"num_ranked is {self.num_ranked}, allowed: 1 to {MAX_RANKED}")
        if self.num_classes <= _CONFUSABLE:
            raise ValueError(f"num_classes is {self.num_classes}, allowed: above {_CONFUSABLE}")

    def class_ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """Targets of images ``start`` to ``stop``: classes in order, as paths are sorted."""
        rows = np.arange(start, stop, dtype=np.int64)
        return (rows * self.num_classes // self.num_images).astype(np.int32)

    def table(self) -> ImageTable:
        """All images, sorted by path, their sizes mostly 500 x 375."""
        rng = _rng(self.seed, 1, 0)
        classes = self.class_ids(0, self.num_images)
        counts = np.bincount(classes, minlength=self.num_classes)
        names = tuple(f"n{1_440_764 + 8_117 * c:08d}" for c in range(self.num_classes))
        paths = [
            f"train/{name}/{name}_{number}.JPEG"
            for name, count in zip(names, counts.tolist(), strict=True)
            for number in sorted(str(18 + 11 * i) for i in range(count))
        ]
        heights, widths, often = (np.array(column) for column in zip(*_SIZES, strict=True))
        size = rng.choice(len(_SIZES), self.num_images, p=often / often.sum())
        hashes = rng.bytes(16 * self.num_images).hex()
        return ImageTable(
            paths=np.array(paths, dtype=object),
            class_ids=classes,
            heights=heights[size].astype(np.int32),
            widths=widths[size].astype(np.int32),
            content_hashes=np.array(
                [hashes[i : i + 32] for i in range(0, len(hashes), 32)], dtype=object
            ),
            class_names=names,
        )

    def crops(self, table: ImageTable) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Boxes (n, M, 4) and flips (n, M) of the images of ``table``, as stage sample draws."""
        hashes = path_hashes(table.paths)
        sides = table.heights, table.widths
        boxes = draw_boxes(self.seed, hashes, *sides, self.num_crops, CropPlan())
        return boxes, draw_flips(self.seed, hashes, self.num_crops, 0.5)

    def ranked(self, start: int, stop: int) -> tuple[Ranked, F32]:
        """Predictions of images ``start`` to ``stop``, and their probabilities (n, M, R)."""
        shape = (stop - start, self.num_crops)
        classes = np.empty((*shape, self.num_ranked), np.uint16)
        probs = np.empty((*shape, self.num_ranked), np.float32)
        target, logsumexp = np.empty(shape, np.float32), np.empty((*shape, 1), np.float32)
        outputs: tuple[NDArray[Any], ...] = (classes, probs, target, logsumexp)
        for block in range(start // _BLOCK, -(-stop // _BLOCK)):
            first = block * _BLOCK
            low, high = max(start, first), min(stop, first + _BLOCK)
            for out, values in zip(outputs, self._block(block), strict=True):
                out[low - start : high - start] = values[low - first : high - first]
        return Ranked(classes, _log_half(probs), _log_half(target), logsumexp), probs

    def labels(self, start: int = 0, stop: int | None = None) -> tuple[Labels, Ranked]:
        """Everything of images ``start`` to ``stop`` (default: all)."""
        stop = self.num_images if stop is None else stop
        table = self.table().slice(start, stop)
        boxes, flips = self.crops(table)
        ranked, probs = self.ranked(start, stop)
        return Labels(table, boxes, flips, ranked.topk_class.astype(np.int32), probs), ranked

    def _block(self, block: int) -> tuple[NDArray[Any], ...]:
        """Classes (B, M, R), probabilities (B, M, R), the target's (B, M), logsumexp (B, M, 1)."""
        rng, start = _rng(self.seed, 0, block), block * _BLOCK
        targets = self.class_ids(start, start + _BLOCK) % self.num_classes
        candidates, leaning = _image_candidates(rng, targets, self.num_classes, self.seed)
        shape = (_BLOCK, self.num_crops)
        maximum = _maximum(rng, shape)
        share = rng.beta(4, 3, (_BLOCK, 1)).astype(np.float32)
        rest = np.float32(1) - maximum
        even = rest * (1 - share) / np.float32(self.num_classes - _CANDIDATES - 1)

        noise = rng.standard_normal((*shape, _CANDIDATES), dtype=np.float32)
        noise *= np.float32(_CROP_NOISE)
        noise += leaning[:, None, :]
        weights = np.exp(noise, out=noise)
        scale = rest * share / np.einsum("bms->bm", weights)
        order, top = _largest(weights, self.num_ranked)
        ids = np.take_along_axis(candidates[:, None, :], order, axis=2)
        probs = np.empty(ids.shape, np.float32)
        probs[..., 0] = maximum
        others = top[..., :-1] * scale[..., None]
        probs[..., 1:] = np.clip(others, even[..., None] / 2, 0.98 * maximum[..., None])
        rank = _target_rank(rng, maximum)
        classes = _insert(ids, targets, rank)
        padded = np.concatenate([probs, even[..., None]], axis=2)
        at = np.minimum(rank, self.num_ranked)[..., None]
        target = np.take_along_axis(padded, at, axis=2)[..., 0]
        logsumexp = 8 + 2 * rng.standard_normal((*shape, 1), dtype=np.float32)
        return classes, probs, target, logsumexp


def _rng(seed: int, purpose: int, block: int) -> Rng:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, purpose, block])))


def _log_half(probs: F32) -> NDArray[np.float16]:
    return np.minimum(np.log(probs), np.float32(0)).astype(np.float16)


@cache
def _confusable(num_classes: int, seed: int) -> NDArray[np.int32]:
    """(C, 40) for every class, classes that it is confused with, nearest draws first."""
    rng = _rng(seed, 2, 0)
    lists = np.empty((num_classes, _CONFUSABLE), np.int32)
    for own in range(num_classes):
        near = own + np.rint(rng.standard_cauchy(80) * _SPREAD).astype(np.int64)
        drawn = np.concatenate([near, rng.permutation(num_classes)]) % num_classes
        found, first = np.unique(drawn, return_index=True)
        ordered = found[np.argsort(first)]
        lists[own] = ordered[ordered != own][:_CONFUSABLE]
    return lists


def _image_candidates(
    rng: Rng, targets: NDArray[np.int32], num_classes: int, seed: int
) -> tuple[NDArray[np.int32], F32]:
    """Candidates (B, S) of images and how the teacher leans to each of them (B, S)."""
    chance = rng.random((len(targets), _CONFUSABLE)) + 0.03 * np.arange(_CONFUSABLE)
    pick = np.argsort(chance, axis=1)[:, :_CANDIDATES]
    candidates = np.take_along_axis(_confusable(num_classes, seed)[targets], pick, axis=1)
    leaning = 0.8 * rng.standard_normal(candidates.shape) - 0.2 * np.arange(_CANDIDATES)
    return candidates, leaning.astype(np.float32)


@cache
def _quantiles() -> tuple[float, float, F32, F32]:
    """Lowest z, steps a unit of z, and the maximum that belongs to z as pieces: value, slope."""
    z = np.linspace(-5.0, 5.0, 4001)
    normal = NormalDist()
    below = np.array([normal.cdf(value) for value in z.tolist()])
    cumulated = np.concatenate([[0.0], np.cumsum(SHARES)])
    maximum = np.maximum(np.interp(below, cumulated / cumulated[-1], EDGES), _FLOOR)
    return -5.0, 400.0, maximum.astype(np.float32), np.append(np.diff(maximum), 0).astype("f4")


def _maximum(rng: Rng, shape: tuple[int, int]) -> F32:
    """(B, M) largest probabilities by Table 1, correlated within an image."""
    lowest, steps, values, slopes = _quantiles()
    z = rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(1 - _FROM_IMAGE))
    z += rng.standard_normal((shape[0], 1), dtype=np.float32) * np.float32(math.sqrt(_FROM_IMAGE))
    place = np.clip((z - np.float32(lowest)) * np.float32(steps), 0, len(values) - 1.001)
    piece = place.astype(np.int32)
    found: F32 = values[piece] + slopes[piece] * (place - piece)
    return found


def _largest(weights: F32, number: int) -> tuple[NDArray[np.int64], F32]:
    """Places and values of the largest along the last axis, falling.

    The place is put into the last five bits of the value, and positive floats sort as integers:
    one vectorised sort instead of an argsort. Values lose 4e-6 of themselves.
    """
    places = np.arange(weights.shape[-1], dtype=np.uint32)
    packed = (weights.view(np.uint32) & np.uint32(0xFFFFFFE0)) | places
    packed.sort(axis=-1)
    top = np.ascontiguousarray(packed[..., : -number - 1 : -1])
    return (top & np.uint32(31)).astype(np.int64), top.view(np.float32)


def _target_rank(rng: Rng, maximum: F32) -> NDArray[np.int64]:
    """(B, M) rank of the target: 0 the more often the larger the maximum, else 1, 2, ..."""
    right = rng.random(maximum.shape, np.float32) < np.clip(0.05 + 1.3 * maximum, 0, 0.985)
    wrong = 1 + rng.standard_exponential(maximum.shape, np.float32).astype(np.int64)
    return np.where(right, 0, wrong)


def _insert(
    ids: NDArray[np.int32], targets: NDArray[np.int32], rank: NDArray[np.int64]
) -> NDArray[np.uint16]:
    """(B, M, R) classes by rank: the candidates, with the target put in at its rank."""
    number = ids.shape[2]
    classes = np.empty(ids.shape, np.uint16)
    classes[..., 0] = targets[:, None]
    classes[..., 1:] = ids[..., : number - 1]
    moved = np.nonzero(rank)
    at, own = rank[moved][:, None], ids[moved]
    ranks = np.arange(number)
    shifted = np.take_along_axis(own, np.broadcast_to(ranks - (ranks > at), own.shape), axis=1)
    classes[moved] = np.where(ranks == at, targets[moved[0]][:, None], shifted)
    return classes

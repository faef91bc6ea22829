"""Randomness that depends on nothing but the seed, the image's path and the crop's number.

Shapes: N images, M crops an image, m crops of one batch, D random words a crop.

Every image has a Philox stream of its own: key (seed, xxh3-64 of its path), counter words for the
purpose and for the stream (a training step, say). Crop c always takes the words c * D to
c * D + D - 1 of it. So boxes and flips are the same whatever the order, the other images, the
shards and the workers are, and more crops leave the old ones alone.
"""

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import xxhash
from numpy.typing import NDArray

from store.crop_plan import WORDS_PER_BOX, CropPlan, boxes_from_words

_CROPS_A_CHUNK = 32_768  # 3 MB of random words: they stay in the cache until they are used
_PLACES_A_CHUNK = 16_384
# Tried: from 12 rounds on, orders, neighbours and groups pass chi-square tests; 8 fail.
_SHUFFLE_ROUNDS = 16

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


class Purpose(IntEnum):
    """What random words are for; a counter word, so that no two purposes share any."""

    BOX = 0
    FLIP = 1
    AUGMENTATION = 2
    TRAINING_DRAW = 3
    FRESH_BOX = 4
    FRESH_FLIP = 5
    MIX = 6
    PARTNER = 7
    PARTNER_BOX = 8
    PARTNER_FLIP = 9


def path_hash(path: str) -> int:
    """Return the xxh3-64 of a path's UTF-8 bytes: the name of an image for random draws."""
    return xxhash.xxh3_64_intdigest(path.encode("utf-8"))


def path_hashes(paths: Iterable[str]) -> U64:
    """Return `path_hash` of each path, (N,) uint64."""
    return np.fromiter((path_hash(path) for path in paths), dtype=np.uint64)


def draw_words(seed: int, hashes: U64, num_words: int, *, purpose: Purpose, stream: int = 0) -> U64:
    """Return the first words of every image's Philox stream, (N, num_words) uint64.

    `seed` and `stream` lie in [0, 2**64). Equal to ``Philox(key=[seed, hash], counter=[0, 0,
    stream, purpose]).random_raw(num_words)`` of each image, but one object is re-keyed: 1 us an
    image where building one costs 7.
    """
    key = np.array([seed, 0], dtype=np.uint64)
    counter = np.array([0, 0, stream, purpose], dtype=np.uint64)
    philox = np.random.Philox(key=key, counter=counter)
    state = philox.state  # a fresh one: its buffer is empty, so nothing is left of another image
    key = state["state"]["key"]
    words = np.empty((len(hashes), num_words), dtype=np.uint64)
    raw = philox.random_raw
    for row, image_hash in enumerate(hashes):
        key[1] = image_hash
        philox.state = state
        words[row] = raw(num_words)
    return words


def draw_boxes(
    seed: int,
    hashes: U64,
    heights: NDArray[np.integer],
    widths: NDArray[np.integer],
    num_crops: int,
    plan: CropPlan,
    *,
    purpose: Purpose = Purpose.BOX,
    stream: int = 0,
) -> NDArray[np.int32]:
    """Return the crop boxes of N images, (N, M, 4) int32: top, left, height, width in pixels.

    `heights` and `widths` are (N,) pixels of the decoded images, at least 1; or (N, M), where each
    crop is of an image of its own. Boxes of a ``random_crop`` plan may leave the image.
    """
    num_images = len(hashes)
    boxes = np.empty((num_images, num_crops, 4), dtype=np.int32)
    step = max(1, _CROPS_A_CHUNK // max(1, num_crops))
    for start in range(0, num_images, step):
        part = slice(start, start + step)
        words = draw_words(
            seed, hashes[part], num_crops * WORDS_PER_BOX, purpose=purpose, stream=stream
        )
        flat = words.reshape(-1, WORDS_PER_BOX)
        height, width = (_of_each_crop(sides[part], num_crops) for sides in (heights, widths))
        boxes[part] = boxes_from_words(plan, flat, height, width).reshape(boxes[part].shape)
    return boxes


def _of_each_crop(sides: NDArray[np.integer], num_crops: int) -> I64:
    """Sides (n,) of images or (n, M) of crops, as those of n * M crops."""
    own = np.asarray(sides, dtype=np.int64)
    return np.repeat(own, num_crops) if own.ndim == 1 else own.reshape(-1)


def draw_flips(
    seed: int,
    hashes: U64,
    num_crops: int,
    probability: float,
    *,
    purpose: Purpose = Purpose.FLIP,
    stream: int = 0,
) -> NDArray[np.bool_]:
    """Return which crops are mirrored, (N, M) bool, each with the given probability."""
    words = draw_words(seed, hashes, num_crops, purpose=purpose, stream=stream)
    # 53 bits make a float64 in [0, 1) exactly, so probability 0 never flips and 1 always does.
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform < probability


def draw_kept(
    seed: int,
    hashes: U64,
    num_kept: NDArray[np.integer],
    position: NDArray[np.integer],
    m: int,
) -> NDArray[np.int64]:
    """Return which kept crops stand at the places position .. position + m - 1 of each image.

    An image with n kept crops has an endless sequence of them: places c * n to c * n + n - 1 hold
    permutation number c. Any n places that begin at a multiple of n hold each kept crop once;
    where n < m crops repeat.

    Args:
        seed: seed of the training, in [0, 2**64).
        hashes: (N,) of the images' paths.
        num_kept: (N,) how many crops each image kept, at least 1.
        position: (N,) first place, at least 0.
        m: how many places.

    Returns:
        (N, m) int64, indices into each image's list of kept crops.
    """
    own = mix_words(mix_words(_words(seed) + np.uint64(Purpose.TRAINING_DRAW)) ^ hashes)
    drawn = np.empty((len(hashes), m), dtype=np.int64)
    step = max(1, _PLACES_A_CHUNK // max(1, m))
    for start in range(0, len(hashes), step):
        part = slice(start, start + step)
        kept = np.asarray(num_kept[part], dtype=np.int64)
        first = np.asarray(position[part], dtype=np.int64)
        drawn[part] = _draw_places(own[part], kept, first, m).T
    return drawn


def _draw_places(own: U64, kept: I64, first: I64, m: int) -> I64:
    """Return the kept crops at m places of B images, (m, B); all else (B,)."""
    cycle = first // kept
    place = first - cycle * kept + np.arange(m, dtype=np.int64)[:, None]
    drawn = _shuffled(place, kept, mix_words(own ^ mix_words(cycle.view(np.uint64))))
    # Images whose places lie in two permutations or more: few, so they are done again.
    across = np.flatnonzero(place[-1:] >= kept)
    if len(across):
        beyond, kept = place[:, across] // kept[across], kept[across]
        keys = mix_words(own[across] ^ mix_words((cycle[across] + beyond).view(np.uint64)))
        drawn[:, across] = _shuffled(place[:, across] - beyond * kept, kept, keys)
    return drawn


def _shuffled(index: I64, size: I64, key: U64) -> I64:
    """Return where a keyed permutation of range(size) sends `index`.

    The swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012): each round pairs x with
    K - x mod size and swaps the pair or not by one bit that both ends agree on. One place costs
    what it costs, so a batch that uses 4 of 200 crops need not make the other 196. Keys come from
    SplitMix64 and not from Philox: nothing here may cost a loop over images.

    Args:
        index: (m, B) in [0, size) where the result is used; others give anything.
        size: (B,) at least 1.
        key: (B,) or (m, B).
    """
    rounds = np.arange(_SHUFFLE_ROUNDS, dtype=np.uint64).reshape(-1, *(1,) * key.ndim)
    factors = mix_words(key + rounds)
    # The partner takes the low half, the bit a multiply-shift hash whose factor is the key.
    sizes = np.ascontiguousarray(np.broadcast_to(size.view(np.uint64), index.shape))
    pivots = (factors & np.uint64(0xFFFFFFFF)) * size.view(np.uint64)
    pivots >>= np.uint64(32)
    offsets = factors * np.uint64(0x9E3779B97F4A7C15)
    factors |= np.uint64(1)
    x = index.astype(np.uint64)
    partner, other = np.empty_like(x), np.empty_like(x)
    signs = other.view(np.int64)
    for pivot, factor, offset in zip(pivots, factors, offsets, strict=True):
        np.subtract(pivot, x, out=partner)
        np.add(partner, sizes, out=other)
        np.minimum(partner, other, out=partner)  # unsigned: what fell below 0 is the larger one
        np.maximum(x, partner, out=other)
        other *= factor
        other += offset
        signs >>= 63  # all bits where the pair swaps; a masked copy would mispredict every branch
        partner ^= x
        partner &= other
        x ^= partner
    return x.view(np.int64)


def _words(value: int) -> U64:
    return np.array([value], dtype=np.uint64)


def mix_words(x: U64) -> U64:
    """Return SplitMix64's next output for state `x`; arrays wrap silently at 2**64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    shifted = np.empty_like(x)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(x, np.uint64(shift), out=shifted)
        x ^= shifted
        x *= np.uint64(factor)
    np.right_shift(x, np.uint64(31), out=shifted)
    x ^= shifted
    return x


__all__ = [
    "CropPlan",
    "Purpose",
    "draw_boxes",
    "draw_flips",
    "draw_kept",
    "draw_words",
    "mix_words",
    "path_hash",
    "path_hashes",
]

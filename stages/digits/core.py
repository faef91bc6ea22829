"""How a cluttered digit is made: arrays in, arrays out.

Legend: S is the canvas' side, h and w are a layer's height and width, all in pixels. Masks are
float32 in [0, 1] (how much ink covers a pixel), colours float32 in [0, 255], images uint8 RGB.

Every image has a counter-based generator of its own, keyed by the seed and the image's number: it
looks the same whichever images are made before it, and more renders leave the old ones alone.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.digits.config import GLYPH_SIZE, NUM_CLASSES, NUM_DIGITS, Config

SPLITS = ("train", "val", "test")

_MAX_INK = 16  # scikit-learn's digits count ink on a scale of 0 to 16
_SPLIT_STREAM = 2**64 - 1  # no image has this number
_WRONG_STREAM = 2**64 - 2  # nor this one
_NOISE_CELLS = 6  # patches of background colour along a side


class Handwriting(NamedTuple):
    """The digits that images are made from."""

    glyphs: NDArray[np.float32]
    """(1797, 8, 8), ink in [0, 1]."""

    classes: NDArray[np.int64]
    """(1797,), the digit written, 0 to 9."""


class Layer(NamedTuple):
    """Ink that lies entirely on the canvas."""

    mask: NDArray[np.float32]
    """(h, w), cover in [0, 1]."""

    ink: NDArray[np.float32]
    """(3,), colour in [0, 255]."""

    top: int
    left: int


def load_handwriting() -> Handwriting:
    """Return scikit-learn's bundled digits; nothing is downloaded."""
    # Imported late: it takes a second, which drawing given handwriting need not pay.
    from sklearn.datasets import load_digits

    data = load_digits()
    glyphs = np.asarray(data.images, dtype=np.float32) / np.float32(_MAX_INK)
    classes = np.asarray(data.target, dtype=np.int64)
    assert glyphs.shape == (NUM_DIGITS, GLYPH_SIZE, GLYPH_SIZE)
    return Handwriting(glyphs, classes)


def generator(seed: int, number: int) -> np.random.Generator:
    """Return the generator of one image (or of the split), independent of all the others'."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))


def image_number(digit: int, render: int) -> int:
    """Return the number that names an image, whatever split it is in and however many there are."""
    return render * NUM_DIGITS + digit


def split(
    classes: NDArray[np.int64], sizes: tuple[int, int, int], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Divide the digits among `SPLITS` by a fixed permutation, every class in proportion.

    Returns for each split the sorted indices of its digits, int64; `sizes` are exact, and a
    class's count is within two of its exact share.
    """
    order = generator(seed, _SPLIT_STREAM).permutation(len(classes))
    place = np.empty(len(classes), dtype=np.float64)
    for class_id in np.unique(classes):
        members = order[classes[order] == class_id]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    dealt = order[np.argsort(place[order], kind="stable")]
    borders = np.cumsum(sizes)
    assert borders[-1] <= len(classes)
    parts = np.split(dealt[: borders[-1]], borders[:-1])
    return {name: np.sort(part) for name, part in zip(SPLITS, parts, strict=True)}


def wrong_classes(
    classes: NDArray[np.int64], digits: NDArray[np.int64], renders: int, share: float, seed: int
) -> dict[tuple[int, int], int]:
    """Choose the images of a split that get a wrong class, and which.

    `classes` are the handwriting's, `digits` index it. Returns the class of round(share * images)
    images by (digit, render); each of the other classes is as likely, and a larger share adds to a
    smaller one.
    """
    images = [(int(digit), render) for digit in digits for render in range(renders)]
    rng = generator(seed, _WRONG_STREAM)
    order = rng.permutation(len(images))
    steps = rng.integers(1, NUM_CLASSES, len(images))
    chosen = [images[place] for place in order[: round(share * len(images))]]
    return {
        (digit, render): int((classes[digit] + step) % NUM_CLASSES)
        for (digit, render), step in zip(chosen, steps, strict=False)
    }


def background(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Return a (S, S, 3) float32 canvas of coloured noise, dark enough for ink to stand out."""
    cells = rng.uniform(0, 110, (_NOISE_CELLS, _NOISE_CELLS, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(cells).resize((side, side), Image.Resampling.BILINEAR))
    noisy = smooth + rng.normal(0, 12, (side, side, 3))
    return np.clip(noisy, 0, 140).astype(np.float32)


def place_ink(
    rng: np.random.Generator, glyph: NDArray[np.float32], size: tuple[int, int], config: Config
) -> Layer:
    """Enlarge a glyph to `size` (height, width), turn it, and choose its place and colour.

    Always takes the same number of draws.
    """
    angle = math.degrees(rng.uniform(-config.rotation, config.rotation))
    ink = rng.uniform(150, 255, 3).astype(np.float32)
    down, across = rng.uniform(size=2)
    drawn = Image.fromarray(np.rint(glyph * 255).astype(np.uint8))
    drawn = drawn.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    drawn = drawn.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    mask = np.asarray(drawn, dtype=np.float32) / np.float32(255)
    top = int(down * (config.canvas - mask.shape[0] + 1))
    left = int(across * (config.canvas - mask.shape[1] + 1))
    return Layer(mask, ink, top, left)


def place_digit(rng: np.random.Generator, glyph: NDArray[np.float32], config: Config) -> Layer:
    """Choose how the image's own digit is drawn: its size, then as `place_ink`."""
    side = int(rng.integers(config.digit_min, config.digit_max + 1))
    return place_ink(rng, glyph, (side, side), config)


def place_fragment(
    rng: np.random.Generator,
    handwriting: Handwriting,
    digit: int,
    pool: NDArray[np.int64],
    config: Config,
) -> Layer:
    """Cut a square out of another digit of `pool` and choose how it is drawn, at digit scale."""
    same = handwriting.classes[pool] == handwriting.classes[digit]
    own_class = bool(rng.uniform() < config.own_class_clutter)
    source = int(rng.choice(pool[(same == own_class) & (pool != digit)]))
    cut = int(rng.integers(config.fragment_min, config.fragment_max + 1))
    top, left = rng.integers(0, GLYPH_SIZE - cut + 1, 2)
    scale = rng.uniform(config.digit_min, config.digit_max) / GLYPH_SIZE
    side = round(cut * scale)
    patch = handwriting.glyphs[source, top : top + cut, left : left + cut]
    return place_ink(rng, patch, (side, side), config)


def paint(canvas: NDArray[np.float32], layer: Layer) -> None:
    """Lay ink over `canvas` (S, S, 3), in place: where the mask is 1 nothing below remains."""
    height, width = layer.mask.shape
    under = canvas[layer.top : layer.top + height, layer.left : layer.left + width]
    under += (layer.ink - under) * layer.mask[:, :, None]


def render(
    handwriting: Handwriting, digit: int, number: int, pool: NDArray[np.int64], config: Config
) -> NDArray[np.uint8]:
    """Draw one image: background, clutter from `pool`, and the digit over all of it.

    `digit` and `pool` index the handwriting; `number` picks the randomness. Returns (S, S, 3).
    """
    rng = generator(config.seed, number)
    canvas = background(rng, config.canvas)
    # Chosen before the clutter, painted after it: the digit is then the same with any clutter.
    own = place_digit(rng, handwriting.glyphs[digit], config)
    for _ in range(config.num_fragments):
        paint(canvas, place_fragment(rng, handwriting, digit, pool, config))
    paint(canvas, own)
    return np.rint(canvas).astype(np.uint8)

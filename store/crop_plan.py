"""How a crop's box comes from its random words: torchvision's two croppers, vectorised.

Shapes: R crops (of any images), D = WORDS_PER_BOX random words a crop.

A box is top, left, height, width in pixels of the decoded image (EXIF orientation ignored, as PIL
and torchvision do). Word t, for t < 10, holds try t of RandomResizedCrop: area in the high half,
aspect ratio in the low half. Word 10 holds the position: top high, left low. Word 11 is spare and
makes a crop three whole Philox blocks.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WORDS_PER_BOX = 12
"""Random words that a crop takes, however many of them it uses."""

_NUM_TRIES = 10
_POSITION = 10

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CropPlan:
    """The distribution that boxes are drawn from.

    Raises ValueError when a number is impossible for the kind.
    """

    kind: Literal["random_resized_crop", "random_crop"] = "random_resized_crop"
    scale: tuple[float, float] = (0.08, 1.0)
    """Of ``random_resized_crop``: smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Of ``random_resized_crop``: smallest and largest width / height."""
    size: int = 32
    """Of ``random_crop``: height and width of every box, in pixels."""
    padding: int = 4
    """Of ``random_crop``: how far a box may leave the image on each side, in pixels."""

    def __post_init__(self) -> None:
        """Check the numbers that the kind uses."""
        if self.kind not in ("random_resized_crop", "random_crop"):
            raise ValueError(f"kind is {self.kind!r}, allowed: random_resized_crop, random_crop")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}, allowed: 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio is {self.ratio}, allowed: 0 < smallest <= largest")
        if self.size < 1:
            raise ValueError(f"size is {self.size}, allowed: at least 1")
        if self.padding < 0:
            raise ValueError(f"padding is {self.padding}, allowed: at least 0")


def boxes_from_words(plan: CropPlan, words: U64, height: I64, width: I64) -> NDArray[np.int32]:
    """Return the boxes that random words stand for.

    Args:
        plan: the distribution.
        words: (R, D) random words.
        height: (R,) of each crop's image, in pixels, at least 1.
        width: (R,) likewise.

    Returns:
        (R, 4) int32: top, left, height, width.
    """
    if plan.kind == "random_resized_crop":
        return _resized_crop(plan, words, height, width)
    return _padded_crop(plan, words, height, width)


def _resized_crop(plan: CropPlan, words: U64, height: I64, width: I64) -> NDArray[np.int32]:
    """Return RandomResizedCrop's boxes: ten tries at a size that fits, else a central crop."""
    box_height, box_width, fits = _try_sizes(plan, words[:, 0], height, width)
    left_over = np.flatnonzero(~fits)
    for number in range(1, _NUM_TRIES):
        if not len(left_over):
            break
        tried = _try_sizes(plan, words[left_over, number], height[left_over], width[left_over])
        box_height[left_over], box_width[left_over], fits = tried
        left_over = left_over[~fits]
    position = words[:, _POSITION]
    if len(left_over):
        central = _central_sizes(plan, height[left_over], width[left_over])
        box_height[left_over], box_width[left_over] = central
    top = _below(position >> _HALF, height - box_height + 1)
    left = _below(position & _LOW, width - box_width + 1)
    if len(left_over):
        top[left_over] = (height[left_over] - box_height[left_over]) // 2
        left[left_over] = (width[left_over] - box_width[left_over]) // 2
    return _stack(top, left, box_height, box_width)


def _try_sizes(
    plan: CropPlan, word: U64, height: I64, width: I64
) -> tuple[I64, I64, NDArray[np.bool_]]:
    """Return height, width and whether they fit, of one try: all (R,).

    Area is uniform, width / height uniform in its logarithm, and both sides are rounded half to
    even, as torchvision's get_params has it.
    """
    smallest, largest = plan.scale
    low, high = math.log(plan.ratio[0]) / 2, math.log(plan.ratio[1]) / 2
    area = (word >> _HALF).astype(np.float64)
    area *= (largest - smallest) * 2.0**-32
    area += smallest
    area *= height * width
    side = np.sqrt(area, out=area)
    stretch = (word & _LOW).astype(np.float64)
    stretch *= (high - low) * 2.0**-32
    stretch += low
    np.exp(stretch, out=stretch)  # the root of width / height
    box_width = np.rint(side * stretch).astype(np.int64)
    box_height = np.rint(side / stretch).astype(np.int64)
    fits = (box_width <= width) & (box_height <= height) & (box_width > 0) & (box_height > 0)
    return box_height, box_width, fits


def _central_sizes(plan: CropPlan, height: I64, width: I64) -> tuple[I64, I64]:
    """Return height and width (R,) of the largest crop whose ratio the plan allows.

    A side is at least 1 pixel, which torchvision does not ensure for images one pixel thin.
    """
    smallest, largest = plan.ratio
    ratio = width / height
    box_height = np.where(ratio < smallest, np.rint(width / smallest).astype(np.int64), height)
    box_width = np.where(ratio > largest, np.rint(height * largest).astype(np.int64), width)
    return np.clip(box_height, 1, height), np.clip(box_width, 1, width)


def _padded_crop(plan: CropPlan, words: U64, height: I64, width: I64) -> NDArray[np.int32]:
    """Return RandomCrop's boxes, in coordinates of the image without its padding.

    Where an image with its padding is still smaller than the box, the box is centred on it: as
    though the padding were just enough. (torchvision refuses such an image.)
    """
    word = words[:, 0]
    size = np.full(len(words), plan.size, dtype=np.int64)
    top = _padded_start(plan, word >> _HALF, height)
    left = _padded_start(plan, word & _LOW, width)
    return _stack(top, left, size, size)


def _padded_start(plan: CropPlan, half_word: U64, extent: I64) -> I64:
    room = extent + 2 * plan.padding - plan.size
    start = _below(half_word, np.maximum(room, 0) + 1) - plan.padding
    return np.where(room < 0, (extent - plan.size) // 2, start)


def _below(half_word: U64, bound: I64) -> I64:
    """Return integers in [0, bound), from 32 random bits and bounds in [1, 2**32); all (R,)."""
    return (half_word * bound.view(np.uint64) >> _HALF).view(np.int64)


def _stack(top: I64, left: I64, height: I64, width: I64) -> NDArray[np.int32]:
    boxes = np.empty((len(top), 4), dtype=np.int32)
    for column, values in enumerate((top, left, height, width)):
        boxes[:, column] = values
    return boxes

"""Drawing the operations of recorded augmentation, as arrays. N images, M crops, P operations.

Words come from the images' Philox streams for augmentation: stream 0 for colour jitter, 1 + j for
operation j of RandAugment. A crop takes the same number of words of each, whatever it draws. So
neither more crops nor more operations move those that exist, and jitter and RandAugment do not move
each other. Levels lie on a grid of 1/1024, finer than a step of 8-bit colour: few values make small
columns, and no last bit of a logarithm can differ from one computer to the next.
"""

import numpy as np
from numpy.typing import NDArray

from stages.sample.augment_config import Augment, ColourJitter, RandAugment
from store.batch import RecordedOps
from store.operations import Operation
from store.random import Purpose, draw_words

JITTER_WORDS = 12
"""0: whether; 1 to 4: the order; 5 to 8: the levels; the rest makes whole Philox blocks."""
RAND_WORDS = 4
"""0: which operation; 1: the sign; 2 and 3: the magnitude."""

_GRID = 1024.0
_LARGEST_MAGNITUDE = 30.0
_JITTERED = {
    "brightness": Operation.BRIGHTNESS,
    "contrast": Operation.CONTRAST,
    "saturation": Operation.SATURATION,
    "hue": Operation.HUE,
}
_CHOICES = np.array(
    [
        Operation.NONE,
        Operation.SHEAR_X,
        Operation.SHEAR_Y,
        Operation.TRANSLATE_X,
        Operation.TRANSLATE_Y,
        Operation.ROTATE,
        Operation.BRIGHTNESS,
        Operation.SATURATION,
        Operation.CONTRAST,
        Operation.SHARPNESS,
        Operation.POSTERIZE,
        Operation.SOLARIZE,
        Operation.AUTOCONTRAST,
        Operation.EQUALIZE,
    ],
    np.uint8,
)
"""What RandAugment draws from; their order belongs to the draw."""

_LEVELS = {
    Operation.SHEAR_X: (0.0, 0.3, True),
    Operation.SHEAR_Y: (0.0, 0.3, True),
    Operation.TRANSLATE_X: (0.0, 150 / 331, True),
    Operation.TRANSLATE_Y: (0.0, 150 / 331, True),
    Operation.ROTATE: (0.0, 30.0, True),
    Operation.BRIGHTNESS: (1.0, 0.9, True),
    Operation.SATURATION: (1.0, 0.9, True),
    Operation.CONTRAST: (1.0, 0.9, True),
    Operation.SHARPNESS: (1.0, 0.9, True),
    Operation.POSTERIZE: (8.0, -4.0, False),
    Operation.SOLARIZE: (255.0, -255.0, False),
}
"""Level at magnitude 0, what 30 adds to it, and whether it may be taken off instead; torchvision's
numbers."""

_BY_CODE = [_LEVELS.get(op, (0.0, 0.0, False)) for op in Operation]
_START = np.array([start for start, _, _ in _BY_CODE])
_SLOPE = np.array([slope for _, slope, _ in _BY_CODE])
_IS_SIGNED = np.array([is_signed for _, _, is_signed in _BY_CODE])

F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]


def draw_ops(config: Augment, seed: int, hashes: U64, num_crops: int) -> RecordedOps:
    """Return the operations of the crops of N images, (N, M, P)."""
    parts: list[tuple[NDArray[np.uint8], F64]] = []
    if config.rand_augment is not None:
        for place in range(config.rand_augment.num_ops):
            words = _words(seed, hashes, num_crops, RAND_WORDS, stream=1 + place)
            parts.append(_rand_op(config.rand_augment, words))
    if config.colour_jitter is not None:
        words = _words(seed, hashes, num_crops, JITTER_WORDS, stream=0)
        parts.append(_jitter_ops(config.colour_jitter, words))
    codes = np.concatenate([codes for codes, _ in parts], axis=-1)
    levels = np.concatenate([levels for _, levels in parts], axis=-1)
    shape = (len(hashes), num_crops, -1)
    rounded = (np.rint(levels * _GRID) / _GRID + 0.0).astype(np.float32)  # no -0
    return RecordedOps(codes.reshape(shape), rounded.reshape(shape))


def num_ops(config: Augment) -> int:
    """Return P, operations a crop."""
    found = 0 if config.rand_augment is None else config.rand_augment.num_ops
    return found + (0 if config.colour_jitter is None else len(_ranges(config.colour_jitter)))


def _words(seed: int, hashes: U64, num_crops: int, each: int, *, stream: int) -> U64:
    """(N M, each) random words."""
    count = num_crops * each
    words = draw_words(seed, hashes, count, purpose=Purpose.AUGMENTATION, stream=stream)
    return words.reshape(-1, each)


def _ranges(config: ColourJitter) -> dict[str, tuple[float, float]]:
    given = {name: getattr(config, name) for name in _JITTERED}
    return {name: found for name, found in given.items() if found is not None}


def _jitter_ops(config: ColourJitter, words: U64) -> tuple[NDArray[np.uint8], F64]:
    """Codes and levels (N M, those that are given), in each crop's order."""
    ranges = _ranges(config)
    columns = [place for place, name in enumerate(_JITTERED) if name in ranges]
    order = np.argsort(words[:, 1:5][:, columns], axis=1, kind="stable")
    low, high = np.array(list(ranges.values())).T
    levels = low + (high - low) * _uniform(words[:, 5:9][:, columns])
    codes = np.array([_JITTERED[name] for name in ranges], np.uint8)[order]
    levels = np.take_along_axis(levels, order, axis=1)
    is_off = _uniform(words[:, 0]) >= config.probability
    codes[is_off], levels[is_off] = Operation.NONE, 0.0
    return codes, levels


def _rand_op(config: RandAugment, words: U64) -> tuple[NDArray[np.uint8], F64]:
    """Codes and levels (N M, 1) of one operation of each crop."""
    chosen = (words[:, 0] >> np.uint64(32)) * np.uint64(len(_CHOICES)) >> np.uint64(32)
    codes = _CHOICES[chosen.astype(np.int64)]
    magnitude = np.full(len(words), config.magnitude)
    if config.magnitude_std:
        radius = np.sqrt(-2 * np.log1p(-_uniform(words[:, 2])))  # Box and Muller 1958
        angle = 2 * np.pi * _uniform(words[:, 3])
        magnitude += config.magnitude_std * radius * np.cos(angle)
        np.clip(magnitude, 0.0, _LARGEST_MAGNITUDE, out=magnitude)
    is_negative = _IS_SIGNED[codes] & (words[:, 1] >> np.uint64(63)).astype(np.bool_)
    slope = np.where(is_negative, -_SLOPE[codes], _SLOPE[codes])
    levels = _START[codes] + slope * (magnitude / _LARGEST_MAGNITUDE)
    levels = np.where(codes == Operation.POSTERIZE, np.rint(levels), levels)
    return codes[:, None], levels[:, None]


def _uniform(words: U64) -> F64:
    """Numbers in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

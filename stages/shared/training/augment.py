"""RandAugment (Cubuk et al. 2020) of the student's pixels, by timm.

Shapes: K crops, (h, w) input size.
"""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import RandAugment, rand_augment_transform
from torch import Tensor

from store.errors import ParamsError

_AUGMENT_COUNTER = 0x617567  # a word of its own: no other draw uses this counter
_SECTION = re.compile(r"(m|mmax)\d{1,4}|(n|inc)\d{1,2}|(p|mstd)\d{1,4}(\.\d{0,9})?|t(weights|3aw?)")
_OUTSIDE = (124, 116, 104)  # the mean of ImageNet's pixels; what timm trains with
_LARGEST_SHIFT = 0.45  # of a crop's shorter side, timm's


def augmented(
    crops: Tensor, names: NDArray[np.integer[Any]], spec: str, seed: int, step: int
) -> Tensor:
    """Return crops with operations drawn for each of them.

    Args:
        crops: (K, 3, h, w) uint8, on the CPU; they stay as they are.
        names: (K,) place of each crop in the whole step, whichever process has it.
        spec: timm's spelling, such as rand-m9-mstd0.5-inc1.
        seed: seed of the training, in [0, 2**64).
        step: number of the step, likewise.

    Returns a new tensor in the memory format of ``crops``. A crop's operations are a function of
    (spec, seed, step, name) alone; no generator of the process is left changed.

    Raises:
        ParamsError: ``spec`` is none of timm's.
    """
    transform = _transform(spec, min(crops.shape[2:]))
    out = torch.empty_like(crops)
    with _generators_kept():
        for place, name in enumerate(names.tolist()):
            _seed_generators(seed, step, name)
            image = transform(Image.fromarray(crops[place].permute(1, 2, 0).contiguous().numpy()))
            out[place].copy_(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return out


def check_spec(spec: str) -> None:
    """Refuse what timm does not know, or would pass over in silence.

    Raises:
        ParamsError: says which section.
    """
    head, *sections = spec.split("-")
    wrong = [each for each in sections if not _SECTION.fullmatch(each)]
    if head != "rand" or wrong:
        raise ParamsError(
            f"train.augment is {spec!r}, of which {(wrong or [head])[0]!r} is unknown, allowed: "
            "rand, then any of -m9 (magnitude), -n2 (operations), -p0.5 (probability of each), "
            "-mstd0.5 (deviation of the magnitude), -mmax10 (largest), -inc1 (stronger with the "
            "magnitude), -tweights"
        )


@lru_cache(maxsize=8)
def _transform(spec: str, shorter_side: int) -> RandAugment:
    check_spec(spec)
    shift = int(_LARGEST_SHIFT * shorter_side)
    settings = {"translate_const": shift, "img_mean": _OUTSIDE}
    transform: RandAugment = rand_augment_transform(spec, settings)
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """As timm's, for any number: from magnitude 10 on it keeps none, and PIL then raises."""
    dropped = 8 - min(max(bits, 0), 8)
    return image.point(lambda value: value >> dropped << dropped)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Give Python's and numpy's generators, which timm draws from, their states back at the end."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # timm's
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _seed_generators(seed: int, step: int, name: int) -> None:
    # Raw words of Philox are the same in every numpy version.
    key = np.array([seed, step], dtype=np.uint64)
    counter = np.array([0, 0, name, _AUGMENT_COUNTER], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(2)
    random.seed(int(words[0]))
    np.random.seed(words[1:].view(np.uint32))  # noqa: NPY002

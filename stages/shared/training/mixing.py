"""Mixing of crops and their labels: SelfMix, Mixup, CutMix.

Shapes: B crops of a step, I images, m crops an image (B = I m, side by side), (h, w) input size, C
classes.

One shift, one share (lambda) and one box serve a whole step, and all of them are a function of
(seed, step) alone. Who is whose partner:

    selfmix        crop (i + s) mod m of the same image, s drawn from 1 .. m - 1
    mixup, cutmix  the crop at the same place of image (j + s) mod I, s drawn from 1 .. I - 1

A cyclic shift makes every crop the partner of exactly one other and never of itself, so over a
batch every label keeps the weight 1. Reversing the batch, as is common, has a fixed point in the
middle where the number is odd; shifting by crops instead of by images would mix neighbours, which
are of the same image. (An image that kept fewer than m crops repeats them, and may thus be mixed
with what is stored once; so may one that a step holds twice, where it has more images than a pass.)

Pixels are mixed after they were normalised: in float32 a mixture is what it says, where uint8
would round it. It is the same picture: normalising is affine, so it can come before a mixture whose
weights sum to 1 or after it; and a box is the same pixels either way. A student and an online
teacher with different means thus see one mixture.

Papers: Mixup, Zhang et al. 2018; CutMix, Yun et al. 2019; SelfMix, FerKD, Shen 2023, which gives
neither its box nor its label rule: CutMix's are taken.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stages.shared.training.config import TrainingConfig
from stages.shared.training.labels import LabelTensors

_MIX_COUNTER = 0x6D6978  # a word of its own: no other draw uses this counter
_UNIFORM_STEP = 2.0**-52


class Box(NamedTuple):
    """Pixels of a crop that come from its partner; ends are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Pixels in it."""
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True, slots=True)
class Mix:
    """How the crops of one step are mixed."""

    partners: NDArray[np.int64]
    """(B,) place in the batch of what is mixed into each crop; a permutation that moves all."""
    share: float
    """Weight of the crop's own label, in [0, 1]; with a box the share of pixels outside it."""
    box: Box | None
    """What is replaced; None: every pixel is share * own + (1 - share) * partner."""

    def part(self, start: int, stop: int) -> "Mix":
        """Return how crops ``start`` to ``stop`` are mixed, whose partners are all among them."""
        partners = self.partners[start:stop] - start
        assert ((partners >= 0) & (partners < stop - start)).all(), "a partner is elsewhere"
        return replace(self, partners=partners)

    def partners_on(self, device: torch.device) -> torch.Tensor:
        """Return ``partners`` as a tensor on ``device``."""
        return torch.from_numpy(self.partners).to(device)


class _Draws(NamedTuple):
    """Uniform numbers in (0, 1) of one step. Each has a place: a setting moves no other's."""

    mixed: float
    switch: float
    beta_radius: float
    beta_angle: float
    centre_y: float
    centre_x: float
    shift: float


def is_off(config: TrainingConfig) -> bool:
    """Whether ``config`` asks for a mixing that has no partners: SelfMix with one crop an image."""
    return config.mix == "selfmix" and config.crops_per_image == 1


def draw_mix(
    config: TrainingConfig, step: int, size: tuple[int, int], m: int | None = None
) -> Mix | None:
    """Return how a step's crops of ``size`` (h, w) are mixed, or None where they are not.

    ``m`` is the step's crops of an image where that is not ``crops_per_image``. A pure function of
    ``config.seed``, ``step`` and the settings of mixing: a step that is made again mixes the same,
    whichever process makes it.
    """
    m = config.crops_per_image if m is None else m
    if config.mix == "none" or (config.mix == "selfmix" and m == 1):
        return None
    draws = _draw(config.seed, step)
    if draws.mixed >= config.mix_probability:
        return None
    if config.mix == "selfmix":
        partners = selfmix_partners(config.batch_size // m, m, draws.shift)
    else:
        partners = image_partners(config.batch_size // m, m, draws.shift)
    uses_mixup = config.mix == "mixup" or (
        config.mix == "mixup_cutmix" and draws.switch >= config.mix_switch
    )
    alpha = config.mixup_alpha if uses_mixup else config.cutmix_alpha
    share = symmetric_beta(alpha, draws.beta_radius, draws.beta_angle)
    if uses_mixup:
        return Mix(partners, share, None)
    box = cut_box(size, share, draws.centre_y, draws.centre_x)
    if box.area == 0:
        return None  # a box below one pixel mixes nothing
    return Mix(partners, 1 - box.area / (size[0] * size[1]), box)


def selfmix_partners(num_images: int, m: int, uniform: float) -> NDArray[np.int64]:
    """Return for each of I x m crops another crop of its image, (B,); m is at least 2."""
    assert m > 1, "one crop has no other"
    places = np.arange(num_images * m).reshape(num_images, m)
    return np.roll(places, -_shift(m, uniform), axis=1).reshape(-1)


def image_partners(num_images: int, m: int, uniform: float) -> NDArray[np.int64]:
    """Return for each of I x m crops one of another image, (B,); I is at least 2."""
    assert num_images > 1, "one image has no other"
    places = np.arange(num_images * m).reshape(num_images, m)
    return np.roll(places, -_shift(num_images, uniform), axis=0).reshape(-1)


def symmetric_beta(alpha: float, radius: float, angle: float) -> float:
    """Return a draw from Beta(alpha, alpha), alpha > 0, made of two uniform numbers in (0, 1).

    numpy may change what its generators make of random words, so this is a formula: Student's t
    with 2 alpha degrees of freedom by Bailey's polar method (1994), t^2 = 2 alpha q with
    q = (U^(-1/alpha) - 1) cos^2(2 pi V), and 1/2 + t / (2 sqrt(2 alpha + t^2)) is Beta. It takes
    two words whatever alpha is, and rejects none; only the last bit is left to the C library.
    """
    cosine = math.cos(2 * math.pi * angle)
    # Above 700 the exponential overflows; the result has been 0 or 1 for long.
    q = math.expm1(min(-math.log(radius) / alpha, 700.0)) * cosine**2
    return 0.5 + math.copysign(0.5, cosine) * math.sqrt(q / (1 + q))


def cut_box(size: tuple[int, int], share: float, centre_y: float, centre_x: float) -> Box:
    """Return CutMix's box: of area 1 - ``share`` and the crop's shape, clipped to the crop.

    Its centre is anywhere in the crop: ``centre_y`` and ``centre_x`` are uniform in (0, 1).
    """
    side = math.sqrt(1 - share)
    top, bottom = _cut(size[0], side, centre_y)
    left, right = _cut(size[1], side, centre_x)
    return Box(top, left, bottom, right)


def mix_pixels(pixels: torch.Tensor, mix: Mix | None) -> torch.Tensor:
    """Return normalised crops (B, 3, h, w) mixed as ``mix`` says; ``pixels`` stay as they are."""
    if mix is None:
        return pixels
    partners = mix.partners_on(pixels.device)
    if mix.box is None:
        return pixels[partners].lerp_(pixels, mix.share)
    top, left, bottom, right = mix.box
    mixed = pixels.clone()  # keeps the memory format
    mixed[:, :, top:bottom, left:right] = pixels[partners, :, top:bottom, left:right]
    return mixed


def mixed_label_variance(labels: LabelTensors, mixed: LabelTensors, num_classes: int) -> float:
    """Return the mean over the batch of sum_c (mixed_c - own_c)^2, in float64.

    This is our measure of how far mixing moves a label from the receiving crop's own: 0 where
    nothing was mixed, at most 2. FerKD argues that mixing within an image keeps it small; it gives
    no number for it.
    """
    moved = mixed.expand(num_classes) - labels.expand(num_classes)
    return float(moved.square().sum(1).mean())


def _draw(seed: int, step: int) -> _Draws:
    # Raw words of Philox are the same in every numpy version.
    key = np.array([seed, step], dtype=np.uint64)
    counter = np.array([0, 0, 0, _MIX_COUNTER], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(len(_Draws._fields))
    # 52 bits and a half: exact in float64, never 0 and never 1.
    return _Draws(*(((words >> np.uint64(12)).astype(np.float64) + 0.5) * _UNIFORM_STEP).tolist())


def _shift(count: int, uniform: float) -> int:
    return 1 + int(uniform * (count - 1))


def _cut(length: int, side: float, centre: float) -> tuple[int, int]:
    extent = int(length * side)
    start = int(length * centre) - extent // 2
    return max(start, 0), min(start + extent, length)

"""Drawing what crops are mixed with, as arrays. N images, n of them of a shard, M crops an image.

Words come from the own image's Philox streams: `Purpose.MIX` has four a crop, `PARTNER` one for
each `crops_per_partner` crops, `PARTNER_BOX` and `PARTNER_FLIP` what boxes and flips take. A crop
takes as many whatever it draws, so more crops leave the old ones alone, and no parameter of mixing
moves a box. Shares and boxes of CutMix lie on the grids of `store.mixing`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.sample.mix_config import Mix
from store.batch import RecordedMix
from store.mixing import CUT_GRID, SHARE_GRID, MixKind, share_outside
from store.partners import PartnerRing
from store.random import CropPlan, Purpose, draw_boxes, draw_flips, draw_words

MIX_WORDS = 4
"""0: whether in the high half, which kind in the low one; 1 and 2: the share; 3: where the box is,
from the top and from the left."""

_CROPS_A_CHUNK = 32_768

F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Others:
    """All images of the store, to mix with."""

    ring: PartnerRing
    heights: NDArray[np.int32]
    """(N,) pixels."""
    widths: NDArray[np.int32]
    """(N,)"""


@dataclass(frozen=True, slots=True)
class Crops:
    """How crops of n images are drawn."""

    seed: int
    image_ids: NDArray[np.int64]
    """(n,)"""
    hashes: U64
    """(n,) of their paths."""
    num_crops: int
    """M."""
    plan: CropPlan
    """Of partners' boxes too."""
    flip: float
    """Probability that what is cut out of a partner is mirrored."""


def draw_mix(config: Mix, crops: Crops, others: Others) -> RecordedMix:
    """Return what crops (n, M) are mixed with."""
    step = max(1, _CROPS_A_CHUNK // crops.num_crops)
    starts = range(0, len(crops.hashes), step)
    kinds, shares, cuts = _joined(
        [_draw_kinds(config, crops, crops.hashes[start : start + step]) for start in starts]
    )
    num_draws = -(-crops.num_crops // config.crops_per_partner)
    drawn = others.ring.draw(crops.seed, crops.image_ids, num_draws)
    partners = np.repeat(drawn, config.crops_per_partner, axis=1)[:, : crops.num_crops]
    boxes = draw_boxes(
        crops.seed,
        crops.hashes,
        others.heights[partners],
        others.widths[partners],
        crops.num_crops,
        crops.plan,
        purpose=Purpose.PARTNER_BOX,
    )
    purpose = Purpose.PARTNER_FLIP
    flips = draw_flips(crops.seed, crops.hashes, crops.num_crops, crops.flip, purpose=purpose)
    is_alone = kinds == MixKind.NONE
    partners[is_alone], boxes[is_alone], flips[is_alone] = -1, 0, False
    return RecordedMix(kinds, shares, partners, boxes, flips, cuts)


def _joined(
    parts: list[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int16]]],
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int16]]:
    kinds, shares, cuts = zip(*parts, strict=True)
    return np.concatenate(kinds), np.concatenate(shares), np.concatenate(cuts)


def _draw_kinds(
    config: Mix, crops: Crops, hashes: U64
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int16]]:
    """Kinds (n, M), shares (n, M) and boxes (n, M, 4) of CutMix; all of some images."""
    count = crops.num_crops * MIX_WORDS
    words = draw_words(crops.seed, hashes, count, purpose=Purpose.MIX).reshape(-1, MIX_WORDS)
    switch = {config.mixup: 1.0, config.cutmix: 0.0}.get(None, config.switch)
    whether, which = _halves(words[:, 0])
    is_cut = which < switch
    alpha = np.where(is_cut, config.cutmix or 1.0, config.mixup or 1.0)
    drawn = _symmetric_beta(alpha, _uniform(words[:, 1]), _uniform(words[:, 2]))
    cuts = _cut_boxes(drawn, *_halves(words[:, 3]))
    cuts[~is_cut] = 0
    shares = (np.rint(drawn * SHARE_GRID) / SHARE_GRID).astype(np.float32)
    shares = np.where(is_cut, share_outside(cuts), shares)
    # A share of 1 shows nothing of another image: no such crop is mixed.
    is_alone = (whether >= config.probability) | (shares == 1)
    kinds = np.where(is_cut, MixKind.CUTMIX, MixKind.MIXUP).astype(np.uint8)
    kinds[is_alone], shares[is_alone], cuts[is_alone] = MixKind.NONE, 1, 0
    shape = (len(hashes), crops.num_crops)
    return kinds.reshape(shape), shares.reshape(shape), cuts.reshape(*shape, 4)


def _symmetric_beta(alpha: F64, radius: F64, angle: F64) -> F64:
    """Draws from Beta(alpha, alpha), made of two uniform numbers in (0, 1) each; all (R,).

    The formula of `stages.shared.training.mixing.symmetric_beta`, which says where it is from.
    """
    cosine = np.cos(2 * np.pi * angle)
    q = np.expm1(np.minimum(-np.log(radius) / alpha, 700.0)) * cosine**2
    return np.asarray(0.5 + np.copysign(0.5, cosine) * np.sqrt(q / (1 + q)))


def _cut_boxes(shares: F64, centre_y: F64, centre_x: F64) -> NDArray[np.int16]:
    """CutMix's boxes (R, 4): as large as 1 - share, of the crop's shape, clipped to the crop."""
    extent = np.floor(CUT_GRID * np.sqrt(1 - shares)).astype(np.int64)
    boxes = np.empty((len(shares), 4), np.int16)
    for place, centre in enumerate((centre_y, centre_x)):
        start = np.floor(CUT_GRID * centre).astype(np.int64) - extent // 2
        end = np.minimum(start + extent, CUT_GRID)
        start = np.maximum(start, 0)
        boxes[:, place], boxes[:, place + 2] = start, end - start
    boxes[(boxes[:, 2:] == 0).any(axis=1)] = 0
    return boxes


def _halves(words: U64) -> tuple[F64, F64]:
    """Numbers in (0, 1) from the high and the low 32 bits."""
    low = words & np.uint64(0xFFFFFFFF)
    pair = (words >> np.uint64(32)).astype(np.float64), low.astype(np.float64)
    return (pair[0] + 0.5) * 2.0**-32, (pair[1] + 0.5) * 2.0**-32


def _uniform(words: U64) -> F64:
    """Numbers in (0, 1), never either: 52 bits and a half."""
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

"""Recorded mixing: which crops hold a part of another image, and of which one, as columns.

Shapes: R rows (crops), N images of the store.

Crops that a part says are mixed (`has_mix`) were labelled after they were mixed. A row says all
that it takes to make the mixture again: another image, a box and a flip of it, and what of it goes
where. Numbers lie on grids, so that pixels follow from them exactly at every input size; how is
`stages.shared.mixed`'s to say. Kinds are a contract: once written they keep their meaning.
"""

from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import tables
from store.batch import RecordedMix
from store.entry import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout
from store.schema import MIX

SHARE_BITS = 10
SHARE_GRID = 1 << SHARE_BITS
"""Shares of Mixup are whole numbers of 1/1024: finer than 8-bit colour shows."""
CUT_GRID = 256
"""Boxes of CutMix lie on 1/256 of a crop's sides, whatever its size: about a pixel."""

_BOX = ("top", "left", "height", "width")
_PARTNER = tuple(f"partner_{name}" for name in _BOX)
_CUT = tuple(f"cut_{name}" for name in _BOX)


class MixKind(IntEnum):
    """What a number in the column ``mix`` stands for."""

    NONE = 0
    """The crop alone: share 1, partner -1, all else 0."""
    MIXUP = 1
    """Every pixel is share * own + (1 - share) * partner's."""
    CUTMIX = 2
    """A box of the crop shows the partner; the share is what lies outside it."""


def has_mix(crops: Entry) -> bool:
    """Whether crops of this part are mixed."""
    return bool(crops.attributes.get("has_mix", False))


def column_names() -> list[str]:
    """Columns of mixing, in their order."""
    return list(MIX.names)


def columns_of(mix: RecordedMix) -> dict[str, NDArray[Any]]:
    """The columns of a crops part, of crops that are its rows in order."""
    flat = mix.flat()
    return {
        "mix": flat.kinds,
        "share": flat.shares,
        "partner_id": flat.partner_ids,
        **{name: flat.boxes[:, place] for place, name in enumerate(_PARTNER)},
        "partner_flip": flat.flips,
        **{name: flat.cuts[:, place] for place, name in enumerate(_CUT)},
    }


def from_columns(columns: Mapping[str, NDArray[Any]]) -> RecordedMix:
    """What columns (R,) hold."""
    return RecordedMix(
        columns["mix"],
        columns["share"],
        columns["partner_id"],
        np.stack([columns[name] for name in _PARTNER], axis=1),
        columns["partner_flip"],
        np.stack([columns[name] for name in _CUT], axis=1),
    )


def from_table(path: Path, table: pa.Table, num_images: int) -> RecordedMix:
    """How the rows of a crops part are mixed; ``num_images`` is N.

    Raises:
        DataError: it names ``path``, which lacks a column, or cannot be replayed.
    """
    if missing := [name for name in column_names() if name not in table.column_names]:
        raise DataError(
            f"{path} lacks the column {missing[0]}; run `ferkd-pipeline stage sample` again"
        )
    mix = from_columns({name: tables.column(table, name) for name in column_names()})
    if wrong := what_is_wrong(mix, tables.column(table, "image_id"), num_images):
        raise DataError(
            f"{path} has {wrong}, which this version cannot replay; run `ferkd-pipeline store "
            "verify`, or upgrade ferkd-pipeline"
        )
    return mix


def what_is_wrong(mix: RecordedMix, image_ids: NDArray[Any], num_images: int) -> str | None:
    """The first rule of docs/format.md that a row does not keep.

    Args:
        mix: of R rows.
        image_ids: (R,) whose crops they are.
        num_images: N.
    """
    kinds, shares = mix.kinds, mix.shares
    is_mixed, is_cut = kinds != MixKind.NONE, kinds == MixKind.CUTMIX
    unknown = (kinds < 0) | (kinds >= len(MixKind))
    if unknown.any():
        return f"the kind of mixing {kinds[unknown][0]}"
    # A null is NaN here, and no comparison with it holds.
    on_grid = (shares >= 0) & (shares <= 1) & (shares * SHARE_GRID == np.rint(shares * SHARE_GRID))
    in_images = (mix.partner_ids >= 0) & (mix.partner_ids < num_images)
    has_box = (mix.boxes[:, 2:] >= 1).all(axis=1)
    ends = mix.cuts[:, :2].astype(np.int64) + mix.cuts[:, 2:]
    is_inside = (mix.cuts[:, :2] >= 0).all(axis=1) & (ends <= CUT_GRID).all(axis=1)
    is_inside &= (mix.cuts[:, 2:] >= 1).all(axis=1)
    is_bare = (shares == 1) & (mix.partner_ids == -1) & ~mix.boxes.any(axis=1) & ~mix.flips
    rules = [
        (is_mixed & ~in_images, "a partner that is no image of the store"),
        (is_mixed & (mix.partner_ids == image_ids), "a crop that is mixed with its own image"),
        (is_mixed & ~has_box, "a partner's box without a pixel"),
        ((kinds == MixKind.MIXUP) & ~on_grid, "a share that is not 0 to 1 in steps of 1/1024"),
        (is_cut & ~is_inside, "a box of CutMix that is empty or leaves the crop"),
        (is_cut & (shares != share_outside(mix.cuts)), "a share that is not what CutMix leaves"),
        (~is_cut & mix.cuts.any(axis=1), "a box of CutMix in a crop without it"),
        (~is_mixed & ~is_bare, "a partner in a crop that is not mixed"),
    ]
    return next((told for where, told in rules if where.any()), None)


def share_outside(cuts: NDArray[np.int16]) -> NDArray[np.float32]:
    """The share (R,) of a crop outside CutMix's box (R, 4); exact."""
    area = cuts[:, 2].astype(np.int64) * cuts[:, 3]
    return (1 - area / CUT_GRID**2).astype(np.float32)


def partners_of(layout: Layout, crops: Entry) -> NDArray[np.int32]:
    """The images that crops of a part are mixed with, each once, in rising order.

    Raises:
        DataError: the part is missing or damaged.
    """
    path = layout.table("crops", crops.stem)
    ids = np.unique(tables.column(tables.read_table(path, ["partner_id"]), "partner_id"))
    return np.asarray(ids[ids >= 0], np.int32)


def files_digest(table: ImageTable, image_ids: NDArray[np.int32]) -> str:
    """Digest of which files images (n,) are, and what these hold; ``table`` has all images.

    Raises:
        DataError: there is no such image.
    """
    if len(image_ids) and int(image_ids.max()) >= len(table):
        raise DataError(
            f"crops are mixed with image {image_ids.max()} of {len(table)}; run `ferkd-pipeline "
            "stage sample` again"
        )
    return table.take(image_ids).digest(0, "paths", "content_hashes")

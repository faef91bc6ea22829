"""Predictions of earlier shards that still hold: found by crop key, copied instead of forwarded.

When images are added or the number of shards changes, ids and borders move, but a crop of the
same file with the same box keeps its prediction. Shapes: N images, M crops.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.infer.core import IDENTITY, Arrays, Kept
from stages.infer.projection import KeptProjection
from store import entries, shelf
from store.arrays import ArrayReader
from store.entries import Entry
from store.errors import DataError
from store.layout import Layout


@dataclass(frozen=True, slots=True)
class Donors:
    """Crops of outdated parts of the same teacher and settings, sorted by crop key."""

    parts: list[ArrayReader]
    keys: NDArray[np.uint64]
    places: NDArray[np.int64]
    """(len(keys), 3): number of the part, image row, crop."""

    @classmethod
    def find(cls, layout: Layout, lineage: dict[str, Any], wanted: NDArray[np.uint64]) -> "Donors":
        """What outdated parts know of the crops ``wanted`` (N, M), for a part of this lineage.

        Their recorded lineage must differ in images and crops alone. A part that disappears or
        is damaged is passed over: what it had is forwarded again.
        """
        in_order = np.unique(wanted)
        parts: list[ArrayReader] = []
        keys: list[NDArray[np.uint64]] = []
        places: list[NDArray[np.int64]] = []
        for entry, folder in shelf.finished(layout, "predictions", "infer"):
            if _settings(entry.lineage) != _settings(lineage):
                continue
            if folder == layout.folder("predictions") and _is_current(layout, entry):
                continue
            try:
                part, found = _open(folder / f"{entry.stem}.zarr")
            except DataError:
                continue
            rows, crops = np.nonzero(np.isin(found, in_order))
            keys.append(found[rows, crops])
            places.append(np.stack([np.full(len(rows), len(parts)), rows, crops], axis=1))
            parts.append(part)
        if not parts:
            return cls([], np.empty(0, np.uint64), np.empty((0, 3), np.int64))
        all_keys = np.concatenate(keys)
        order = np.argsort(all_keys, kind="stable")
        return cls(parts, all_keys[order], np.concatenate(places)[order])

    def copy(
        self, kept: Kept | KeptProjection, wanted: NDArray[np.uint64], values: Arrays
    ) -> NDArray[np.bool_]:
        """Fill ``values`` where ``wanted`` (N, M) keys are known; returns where, (N, M)."""
        if not len(self.keys):
            return np.zeros(wanted.shape, np.bool_)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        hit: NDArray[np.bool_] = self.keys[at] == wanted
        for number, part in enumerate(self.parts):
            mine = hit & (self.places[at][..., 0] == number)
            if mine.any():
                copied = self._copy_from(part, mine, self.places[at[mine]], values, kept)
                hit[mine] = copied
        return hit

    @staticmethod
    def _copy_from(
        part: ArrayReader,
        mine: NDArray[np.bool_],
        places: NDArray[np.int64],
        values: Arrays,
        kept: Kept | KeptProjection,
    ) -> NDArray[np.bool_]:
        """Copy the rows ``places`` of a part to ``mine``; False for rows that it rejected."""
        rows, crops = places[:, 1], places[:, 2]
        start, stop = int(rows.min()), int(rows.max()) + 1
        names = [name for name in kept.specs() if name not in IDENTITY]
        try:
            block = {name: part.read(name, start, stop)[rows - start, crops] for name in names}
        except DataError:
            return np.zeros(len(places), np.bool_)
        usable: NDArray[np.bool_] = ~np.isnan(block[kept.MARK][:, 0])
        for name, rows_of_name in block.items():
            values[name][mine] = np.where(
                usable.reshape(-1, *[1] * (rows_of_name.ndim - 1)), rows_of_name, values[name][mine]
            )
        return usable


_NAMED_BY_KEYS = ("images", "crops", "partners")


def _settings(lineage: dict[str, Any]) -> dict[str, Any]:
    """Lineage without the inputs that crop keys stand for."""
    inputs = {k: v for k, v in lineage["inputs"].items() if k not in _NAMED_BY_KEYS}
    return {**lineage, "inputs": inputs}


def _is_current(layout: Layout, entry: Entry) -> bool:
    """Whether a part holds the crops that its number stands for now, so that no other needs it."""
    crops = entries.find_entry(layout, "crops", entry.stem)
    return crops is not None and crops.rows_digest == entry.lineage["inputs"]["crops"]


def _open(path: Path) -> tuple[ArrayReader, NDArray[np.uint64]]:
    part = ArrayReader(path)
    return part, part.read("crop_key", 0, part.num_images)

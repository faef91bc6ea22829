"""Which labels a survey looks at, read in blocks: all of a small store, a sample of a large one.

Shapes: N crops of a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.calibrate.reliability import Reliability
from store import scan, tables
from store.arrays import ArrayReader
from store.entries import Entry
from store.inspection.label_rows import LabelRows, label_rows, num_pieces, rows_at_once
from store.layout import Layout
from store.soft_part import SoftPart

LOOKED_AT = 4_000_000
"""Crops that are looked at, about, where there are more."""
_DENSE_VALUES = 1 << 28
"""Values of labels with every class that are looked at, about: 268,000 crops of 1,000 classes."""
_LEAST_PIECES = 40
"""Pieces of a sample: images lie sorted by class, so a few large pieces would be a few classes."""
_LEAST_DENSE_PIECES = 12
"""The same of labels with every class, whose pieces take long to read."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Crops of a store; they are read again in every pass, for they may be many."""

    layout: Layout
    softs: list[Entry]
    """Labels of all shards."""
    chosen: dict[int, list[int]]
    """Pieces of each part, by its place in `softs`; see `num_pieces`."""
    stride: int
    """One image in so many of a piece is taken."""
    is_sample: bool

    @property
    def parts(self) -> list[int]:
        """Parts of which something is taken."""
        return list(self.chosen)

    @classmethod
    def choose(cls, layout: Layout, softs: list[Entry]) -> "Pieces":
        """Take all pieces of all parts, or some that lie evenly over them."""
        parts = [SoftPart(layout, entry) for entry in softs]
        listed = [(n, piece) for n, part in enumerate(parts) for piece in range(num_pieces(part))]
        total, stride = sum(entry.rows for entry in softs), 1
        looked_at, least = LOOKED_AT, _LEAST_PIECES
        if parts[0].spec.is_dense:
            looked_at = min(looked_at, _DENSE_VALUES // parts[0].spec.num_classes)
            least = _LEAST_DENSE_PIECES
        is_sample = total > looked_at
        if is_sample:
            rows = total / len(listed)
            wanted = min(len(listed), max(least, int(looked_at / rows)))
            listed = [listed[int(n)] for n in np.arange(wanted) * len(listed) / wanted]
            stride = max(1, round(wanted * rows / looked_at))
        chosen: dict[int, list[int]] = {}
        for number, piece in listed:
            chosen.setdefault(number, []).append(piece)
        return cls(layout, softs, chosen, stride, is_sample)

    def rows(self, part: int) -> Iterator[LabelRows]:
        """Yield the crops of a part that are looked at, in blocks of whole images."""
        soft = SoftPart(self.layout, self.softs[part])
        for rows in label_rows(soft, pieces=self.chosen[part]):
            yield rows if self.stride == 1 else rows.every(self.stride, soft.num_crops)

    def reliability(self, part: int, ons: Sequence[str]) -> dict[str, Reliability]:
        """Count the same crops by the probabilities ``ons``: `max`, `target`."""
        soft = SoftPart(self.layout, self.softs[part])
        found = {on: Reliability.empty() for on in ons}
        for targets, top, max_prob, target_prob in self._scalars(soft, part):
            values, right = {"max": max_prob, "target": target_prob}, top == targets
            for on in ons:
                counted = Reliability.of(values[on], right, target_prob)
                found[on] = found[on].merge(counted)
        return found

    def _scalars(self, soft: SoftPart, part: int) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield targets, most probable classes and both probabilities, (N,) each, of `rows`."""
        if soft.spec.is_dense:
            for rows in self.rows(part):
                yield rows.targets, rows.first_class(), rows.max_prob, rows.target_prob
            return
        largest = "prob_0" if soft.spec.max_is_prob_0 else "max_prob"
        names = ["target", "class_0", largest, "target_prob"]
        path = self.layout.table("soft", soft.entry.stem)
        reader = scan.RowReader(path, names, self.chosen[part])
        for block in reader.blocks(rows_at_once(soft)):  # as `label_rows` cuts them
            keep = np.arange(block.num_rows) // soft.num_crops % self.stride == 0
            yield tuple(tables.column(block, name)[keep] for name in names)


def rows_of_image(layout: Layout, soft: Entry, place: int) -> LabelRows:
    """Return the labels of one image: the one at ``place`` among those of its part, from 0.

    Raises:
        DataError: the part is damaged.
    """
    part = SoftPart(layout, soft)
    first = place * part.num_crops
    piece, start = _piece_of(part, first)
    for rows in label_rows(part, pieces=[piece]):
        if first < start + len(rows.targets):
            keep = np.zeros(len(rows.targets), dtype=np.bool_)
            keep[first - start : first - start + part.num_crops] = True
            return rows.rows(keep)
        start += len(rows.targets)
    raise IndexError(f"{soft.stem} has no image at {place}")


def _piece_of(part: SoftPart, row: int) -> tuple[int, int]:
    """Return the piece that holds a row, and its first row."""
    if part.spec.is_dense:
        reader = ArrayReader(part.layout.arrays("soft", part.entry.stem))
        ends = [stop * part.num_crops for _, stop in reader.blocks()]
    else:
        with tables.open_table(part.layout.table("soft", part.entry.stem)) as file:
            groups = range(file.num_row_groups)
            ends = np.cumsum([file.metadata.row_group(n).num_rows for n in groups]).tolist()
    piece = int(np.searchsorted(ends, row, side="right"))
    return piece, ends[piece - 1] if piece else 0

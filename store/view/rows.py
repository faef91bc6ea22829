"""Copying the rows of one shard into the records of a training view, a block at a time.

Shapes: N rows (crops) of a block, K stored classes, C classes, P recorded operations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import mixing, operations, recorded, tables
from store.batch import RecordedMix
from store.codecs import LabelSpec
from store.entries import Entry
from store.errors import DataError
from store.layout import Layout
from store.scan import RowReader, block_rows
from store.soft_part import SoftPart
from store.view.codebook import Codebook, FullError
from store.view.record import (
    NUM_PROB_CODES,
    NUM_WEIGHT_CODES,
    RecordLayout,
    TooNarrowError,
    check_box,
)

_BOX = ("top", "left", "height", "width")
_WEIGHTS = ("teacher_weight", "target_weight")


@dataclass(frozen=True, slots=True)
class ViewPart:
    """Entries of one shard that the view is made of."""

    start: int
    stop: int
    crops: Entry
    soft: Entry
    overlay: Entry | None

    @property
    def num_crops(self) -> int:
        """M, crops an image."""
        return int(self.crops.attribute("num_crops"))

    @property
    def num_ops(self) -> int:
        """P, operations recorded of a crop."""
        return operations.count_of(self.crops)

    @property
    def has_mix(self) -> bool:
        """Whether crops are mixed."""
        return mixing.has_mix(self.crops)

    @property
    def entries(self) -> list[Entry]:
        """Those that there are."""
        return [entry for entry in (self.crops, self.soft, self.overlay) if entry is not None]

    def digests(self) -> list[str | None]:
        """Rows digests of the three."""
        overlay = None if self.overlay is None else self.overlay.rows_digest
        return [self.crops.rows_digest, self.soft.rows_digest, overlay]


class RowFiller:
    """Fills records of one layout from shards; several threads may use it for different shards."""

    def __init__(
        self,
        store: Layout,
        label: LabelSpec,
        num_crops: int,
        layout: RecordLayout,
        num_images: int,
    ) -> None:
        self._store = store
        self._num_images = num_images
        self._label = label
        self._num_crops = num_crops
        self._layout = layout
        self.probs = Codebook(pa.float32(), NUM_PROB_CODES)
        self.weights = Codebook(pa.uint64(), NUM_WEIGHT_CODES)

    def fill(
        self, part: ViewPart, records: NDArray[Any], dense: NDArray[np.float16] | None
    ) -> NDArray[np.bool_]:
        """Write the records (rows of the shard,) of a part; returns which crops may be drawn.

        ``dense`` is (rows, C) for the dense kinds.

        Raises:
            DataError: a table is damaged or has other rows than M of each image in order.
            RetryError: the part was published again since its entries were read.
            TooNarrowError: values do not fit the layout.
        """
        columns = [*_BOX, "flip", *operations.column_names(part.num_ops)]
        columns += mixing.column_names() if part.has_mix else []
        path = self._store.table("crops", part.crops.stem)
        for rows, table in self._pieces(part, part.crops, columns):
            self._fill_boxes(records[rows], table)
            if part.num_ops:
                ops = operations.from_table(path, table, part.num_ops)
                records["op"][rows], records["level"][rows] = ops.codes, ops.levels
            if part.has_mix:
                self._fill_mix(records[rows], mixing.from_table(path, table, self._num_images))
        usable = np.ones(len(records), np.bool_)
        if dense is not None:
            self._fill_dense(part, dense, usable)
        else:
            names = [f"{kind}_{k}" for kind in ("class", "prob") for k in self._places]
            names += ["outside_prob"] if self._label.include_target else []
            for rows, table in self._pieces(part, part.soft, names):
                usable[rows] = self._fill_labels(records[rows], table, part)
        if part.overlay is not None:
            for rows, table in self._pieces(part, part.overlay, list(_WEIGHTS)):
                usable[rows] &= self._fill_weights(records[rows], table)
        return usable

    @property
    def _places(self) -> range:
        return range(self._label.num_stored)

    def _pieces(
        self, part: ViewPart, entry: Entry, names: list[str]
    ) -> Iterator[tuple[slice, pa.Table]]:
        """Blocks of whole images of a table and where they stand, their image ids checked."""
        path = self._store.table(entry.artifact, entry.stem)
        num_rows, start = (part.stop - part.start) * self._num_crops, 0
        with recorded.planned(self._store, entry):
            reader = RowReader(path, ["image_id", *names])
        if reader.num_rows == num_rows:
            for table in reader.blocks(block_rows(self._num_crops)):
                rows = slice(start, start + table.num_rows)
                if not self._is_in_order(part, rows, table):
                    break
                yield rows, table
                start = rows.stop
        if start == num_rows:
            return
        raise DataError(
            f"{path} does not hold {self._num_crops} crops of each image from {part.start} to "
            f"{part.stop - 1}; run `{entry.remake}` again"
        )

    def _is_in_order(self, part: ViewPart, rows: slice, table: pa.Table) -> bool:
        first, last = rows.start // self._num_crops, rows.stop // self._num_crops
        ids = np.arange(part.start + first, part.start + last, dtype=np.int32)
        found = tables.column(table, "image_id")
        return np.array_equal(found, np.repeat(ids, self._num_crops))

    def _fill_boxes(self, records: NDArray[Any], table: pa.Table) -> None:
        self._fill_box(records["box"], [tables.column(table, name) for name in _BOX])
        records["flip"] = tables.column(table, "flip")

    def _fill_box(self, out: NDArray[Any], columns: list[NDArray[Any]]) -> None:
        smallest = min(int(values.min()) for values in columns)
        check_box(self._layout, smallest, max(int(values.max()) for values in columns))
        for place, values in enumerate(columns):
            out[:, place] = values

    def _fill_mix(self, records: NDArray[Any], mix: RecordedMix) -> None:
        self._fill_box(records["partner_box"], list(mix.boxes.T))
        records["mix"], records["share"], records["cut"] = mix.kinds, mix.shares, mix.cuts
        records["partner_id"], records["partner_flip"] = mix.partner_ids, mix.flips

    def _fill_labels(
        self, records: NDArray[Any], table: pa.Table, part: ViewPart
    ) -> NDArray[np.bool_]:
        for place in self._places:
            ids = tables.column(table, f"class_{place}")
            if int(ids.max()) >= self._label.num_classes:
                raise DataError(
                    f"{self._store.table('soft', part.soft.stem)} holds class {ids.max()} of "
                    f"{self._label.num_classes}; run `{part.soft.remake}` again"
                )
            records["class_id"][:, place] = np.maximum(ids, 0)
            records["prob"][:, place] = self._probs(table, f"prob_{place}")
        if self._label.include_target:
            records["outside_prob"] = self._probs(table, "outside_prob")
        return ~np.asarray(table.column("prob_0").is_null(nan_is_null=True))

    def _probs(self, table: pa.Table, name: str) -> NDArray[Any]:
        if self._layout.prob == "float32":
            return tables.column(table, name)
        try:
            return self.probs.encode(table.column(name))
        except FullError:
            raise TooNarrowError(replace(self._layout, prob="float32")) from None

    def _fill_weights(self, records: NDArray[Any], table: pa.Table) -> NDArray[np.bool_]:
        weights = [tables.column(table, name) for name in _WEIGHTS]
        if self._layout.weights == "float32":
            for place, values in enumerate(weights):
                records["weights"][:, place] = values
        else:
            try:
                records["weights"] = self.weights.encode(pa.array(pack_pairs(*weights)))
            except FullError:
                raise TooNarrowError(replace(self._layout, weights="float32")) from None
        usable: NDArray[np.bool_] = ~np.isnan(weights[0])
        return usable

    def _fill_dense(
        self, part: ViewPart, dense: NDArray[np.float16], usable: NDArray[np.bool_]
    ) -> None:
        images = dense.reshape(-1, self._num_crops, self._label.num_classes)
        stop = 0
        for start, stop, stored in SoftPart(self._store, part.soft).dense_blocks():
            if stored.shape != images[start:stop].shape:
                self._raise_other_shape(part, stored.shape, images[start:stop].shape)
            images[start:stop] = stored
            usable.reshape(images.shape[:2])[start:stop] = ~np.isnan(stored[..., 0])
        if stop != len(images):
            self._raise_other_shape(part, (stop, *images.shape[1:]), images.shape)

    def _raise_other_shape(
        self, part: ViewPart, found: tuple[int, ...], wanted: tuple[int, ...]
    ) -> None:
        raise DataError(
            f"{self._store.arrays('soft', part.soft.stem)} holds labels of shape {found} instead "
            f"of {wanted}; run `{part.soft.remake}` again"
        )


def pack_pairs(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.uint64]:
    """The bits of two float32 columns (N,) as one number each, for a codebook of pairs."""
    high = np.ascontiguousarray(first).view(np.uint32).astype(np.uint64) << np.uint64(32)
    return np.asarray(high | np.ascontiguousarray(second).view(np.uint32))


def unpack_pairs(packed: NDArray[np.uint64]) -> NDArray[np.float32]:
    """What `pack_pairs` packed, (N, 2)."""
    halves = np.stack([packed >> np.uint64(32), packed & np.uint64(0xFFFFFFFF)], axis=1)
    return halves.astype(np.uint32).view(np.float32)

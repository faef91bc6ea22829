"""Stored labels of a part as blocks of rows, whichever container their kind is kept in.

Shapes: N rows (crops of whole images), M crops, K classes stored, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import scan, tables
from store.arrays import ArrayReader
from store.codecs import LabelSpec, SparseLabels, to_dense, to_entries
from store.dense_codecs import decode_full, decode_logits
from store.errors import DataError
from store.soft_part import Scalars, SoftPart

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_DENSE_VALUES = 1 << 24
"""Values of a block with every class: 128 MB as float64."""


@dataclass(frozen=True, slots=True)
class LabelRows:
    """A block of rows of one part; whole images."""

    spec: LabelSpec
    image_ids: NDArray[np.int32]
    """(N,) ascending."""
    targets: NDArray[np.int32]
    """(N,) ground-truth class."""
    max_prob: F32
    """(N,) NaN where rejected."""
    target_prob: F32
    """(N,) NaN where rejected."""
    sparse: SparseLabels | None
    """Of a sparse kind."""
    values: NDArray[np.floating] | None
    """(N, C) of a dense kind, as stored."""

    def every(self, stride: int, num_crops: int) -> "LabelRows":
        """Return one image in so many, from the first on; ``num_crops`` are those of an image."""
        return self.rows(np.arange(len(self.targets)) // num_crops % stride == 0)

    def rows(self, keep: NDArray[np.bool_]) -> "LabelRows":
        """Return those of the rows (N,) that are kept."""
        return LabelRows(
            self.spec,
            self.image_ids[keep],
            self.targets[keep],
            self.max_prob[keep],
            self.target_prob[keep],
            None if self.sparse is None else self.sparse.rows(keep),
            None if self.values is None else self.values[keep],
        )

    def first_class(self) -> NDArray[np.int64]:
        """(N,) the class with the largest value; -1 where rejected."""
        if self.sparse is not None:
            return self.sparse.class_ids[:, 0].astype(np.int64)
        assert self.values is not None
        first: NDArray[np.int64] = self.values.argmax(axis=1)
        first[np.isnan(self.values[:, 0])] = -1
        return first

    def entries(self) -> tuple[NDArray[np.int32], F32, F32]:
        """Class ids (N, E), weights (N, E) and tails (N,) of a sparse kind; see `to_entries`."""
        assert self.sparse is not None
        return to_entries(self.spec, self.sparse, self.targets)

    def dense(self) -> F64:
        """(N, C) what is served: probabilities that sum to 1, or the logits of kind `logits`."""
        if self.sparse is not None:
            return to_dense(self.spec, self.sparse, self.targets)
        assert self.values is not None
        if self.spec.kind == "full":
            return decode_full(self.values)
        return decode_logits(self.values)

    def entropy(self) -> F64:
        """(N,) of the stored label, in nats; NaN where rejected. Not for kind `logits`."""
        if self.sparse is None:
            return np.asarray(0.0 - _x_log_x(self.dense()).sum(axis=1))
        _, weights, tail = self.entries()
        return entropy(weights, tail, self.spec.num_classes)


def entropy(weights: F32, tail: F32, num_classes: int) -> F64:
    """(N,) in nats, of labels = tail (N,) + weights (N, E) at classes of which none stands twice.

    NaN where they are.
    """
    # A class whose weight is 0 has just the tail's probability: it counts among the others.
    is_entry = weights != 0
    listed = _x_log_x(weights.astype(np.float64) + tail[:, None])
    num_others = num_classes - is_entry.sum(axis=1)
    total = np.where(is_entry, listed, 0.0).sum(axis=1) + num_others * _x_log_x(tail)
    return np.asarray(0.0 - total)  # not -0


def _x_log_x(x: NDArray[np.floating]) -> F64:
    values = np.maximum(np.asarray(x, dtype=np.float64), 0.0)
    return np.asarray(values * np.log(np.where(values > 0, values, 1.0)))


def num_pieces(part: SoftPart) -> int:
    """Into how many pieces a part is cut on disk, each readable without the others.

    Raises:
        DataError: a file is missing or damaged.
    """
    if part.spec.is_dense:
        return len(list(ArrayReader(part.layout.arrays("soft", part.entry.stem)).blocks()))
    with tables.open_table(part.layout.table("soft", part.entry.stem)) as file:
        return int(file.num_row_groups)


def label_rows(
    part: SoftPart, num_rows: int | None = None, *, pieces: Sequence[int] | None = None
) -> Iterator[LabelRows]:
    """Rows of a part, in blocks of whole images.

    Args:
        part: what to read.
        num_rows: rows of a block, a multiple of the crops an image has; by default what fits.
        pieces: numbers below `num_pieces`, ascending, to read only these; by default all.

    Raises:
        DataError: a file is missing or damaged, or its rows are not whole images.
    """
    _check_whole_images(part)
    if part.spec.is_dense:
        yield from _dense_rows(part, num_rows, pieces)
        return
    spec = part.spec
    ids, probs = ([f"{kind}_{k}" for k in range(spec.num_stored)] for kind in ("class", "prob"))
    largest = "prob_0" if spec.max_is_prob_0 else "max_prob"
    outside = ["outside_prob"] if spec.include_target else []
    names = dict.fromkeys(["image_id", "target", "target_prob", largest, *ids, *probs, *outside])
    path = part.layout.table("soft", part.entry.stem)
    reader = scan.RowReader(path, list(names), pieces)
    for block in reader.blocks(num_rows or rows_at_once(part)):
        labels = SparseLabels(
            _stack(block, ids),
            _stack(block, probs),
            *(tables.column(block, name) for name in outside),
        )
        yield LabelRows(
            spec,
            tables.column(block, "image_id"),
            tables.column(block, "target"),
            tables.column(block, largest),
            tables.column(block, "target_prob"),
            labels,
            None,
        )


def dense_scalars(part: SoftPart) -> Scalars:
    """What `SoftPart.scalars` gives of a dense kind; of kind `logits`, NaN for probabilities.

    Raises:
        DataError: the part is missing or damaged.
    """
    if part.spec.kind != "logits":
        return part.scalars()
    reader = ArrayReader(part.layout.arrays("soft", part.entry.stem))
    ids, targets = (
        np.repeat(reader.read(name, 0, reader.num_images), part.num_crops)
        for name in ("image_id", "target")
    )
    nothing = np.full(len(ids), np.nan, dtype=np.float32)
    return Scalars(ids, targets, nothing, nothing)


def rows_at_once(*parts: SoftPart) -> int:
    """Rows of a block that is no burden, whole images, for all these parts of one shard."""
    num_crops, rows = parts[0].num_crops, scan.BLOCK_ROWS
    for part in parts:
        if part.spec.is_dense:
            rows = min(rows, _DENSE_VALUES // part.spec.num_classes)
    return max(1, rows // num_crops) * num_crops


def _check_whole_images(part: SoftPart) -> None:
    if part.num_crops < 1 or part.entry.rows % part.num_crops:
        path = part.layout.entry("soft", part.entry.stem)
        raise DataError(
            f"{path} lists {part.entry.rows} rows of {part.num_crops} crops an image; "
            f"run `{part.entry.remake}` again"
        )


def _stack(table: pa.Table, names: list[str]) -> NDArray[Any]:
    # Column after column in memory: sums over a row's few classes are several times as fast.
    return np.stack([tables.column(table, name) for name in names]).T


def _dense_rows(
    part: SoftPart, num_rows: int | None, pieces: Sequence[int] | None
) -> Iterator[LabelRows]:
    """The same of kinds full and logits: their blocks, cut again."""
    scalars, num_crops = dense_scalars(part), part.num_crops
    num_images = (num_rows or rows_at_once(part)) // num_crops
    for images, values in _image_blocks(part, num_images, pieces):
        rows = (images[:, None] * num_crops + np.arange(num_crops)).ravel()
        yield LabelRows(
            part.spec,
            scalars.image_ids[rows],
            scalars.targets[rows],
            scalars.max_prob[rows],
            scalars.target_prob[rows],
            None,
            values.reshape(-1, values.shape[-1]),
        )


def _image_blocks(
    part: SoftPart, num_images: int, pieces: Sequence[int] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]:
    """(images (I,) by their place in the part, values (I, M, C)), so many images at a time.

    A block's border may lie anywhere, whatever the blocks on disk: two kinds of a label must come
    in equal pieces to compare.
    """
    images, ahead = np.empty(0, np.int64), []
    for start, stop, values in part.dense_blocks(pieces):
        ahead.append(values)
        images = np.append(images, np.arange(start, stop))
        while len(images) >= num_images:
            joined = np.concatenate(ahead) if len(ahead) > 1 else ahead[0]
            yield images[:num_images], joined[:num_images]
            images, ahead = images[num_images:], [joined[num_images:]]
    if len(images):
        yield images, np.concatenate(ahead)

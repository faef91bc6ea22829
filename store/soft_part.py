"""Reading one part of stored labels, whichever container its kind is kept in.

Shapes: N rows (crops), C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import recorded, tables
from store.arrays import ArrayReader
from store.codecs import LabelSpec, SparseLabels
from store.entries import Entry
from store.errors import DataError
from store.layout import Layout


@dataclass(frozen=True, slots=True)
class Scalars:
    """What calibration reads of every crop, whatever the kind."""

    image_ids: NDArray[np.int32]
    """(N,)"""
    targets: NDArray[np.int32]
    """(N,)"""
    max_prob: NDArray[np.float32]
    """(N,) the teacher's maximum at temperature 1 before compression; NaN where rejected."""
    target_prob: NDArray[np.float32]
    """(N,) the ground truth's probability, likewise."""


@dataclass(frozen=True, slots=True)
class SoftPart:
    """One part of the artifact ``soft``.

    Files are compared with ``entry``, whatever entry lies there by now: what is made of the rows
    records its digest. Reading raises RetryError where the part was published again meanwhile.
    """

    layout: Layout
    entry: Entry

    @property
    def spec(self) -> LabelSpec:
        """The kind of label.

        Raises:
            DataError: the entry does not say it.
        """
        try:
            return LabelSpec(**self.entry.attribute("label"))
        except (TypeError, ValueError) as error:
            path = self.layout.entry(self.entry.artifact, self.entry.stem)
            raise DataError(
                f"{path} describes no label ({error}); run `{self.entry.remake}` again"
            ) from None

    @property
    def num_crops(self) -> int:
        """M, crops an image."""
        return int(self.entry.attribute("num_crops"))

    def max_prob(self) -> NDArray[np.float32]:
        """Only the maxima, (N,); see `Scalars`.

        Raises:
            DataError: the kind has none (logits), or the part is damaged.
        """
        self.require_probabilities()
        if self.spec.is_dense:
            reader = self._reader()
            return np.asarray(reader.read("max_prob", 0, reader.num_images)).reshape(-1)
        name = self._max_column
        return tables.column(self._table([name]), name)

    def scalars(self) -> Scalars:
        """Ids, targets and the two probabilities of every crop.

        Raises:
            DataError: the kind has none (logits), or the part is damaged.
        """
        self.require_probabilities()
        if self.spec.is_dense:
            return self._dense_scalars()
        names = ["image_id", "target", self._max_column, "target_prob"]
        table = self._table(names)
        return Scalars(*(tables.column(table, name) for name in names))

    def top_class(self) -> NDArray[np.int32]:
        """The teacher's most probable class of every crop, (N,); -1 where rejected.

        By the order of unrounded logits for sparse kinds; kind full keeps rounded probabilities
        only, of which the first largest counts.

        Raises:
            DataError: the kind has none (logits), or the part is damaged.
        """
        self.require_probabilities()
        if not self.spec.is_dense:
            return tables.column(self._table(["class_0"]), "class_0")
        found = [np.empty(0, np.int32)]
        for _, _, stored in self.dense_blocks():
            block = stored.reshape(-1, stored.shape[-1])
            top = np.where(np.isnan(block[:, 0]), -1, block.argmax(axis=1))
            found.append(top.astype(np.int32))
        return np.concatenate(found)

    def sparse(self) -> SparseLabels:
        """Stored labels of a sparse kind."""
        spec = self.spec
        names = [f"{kind}_{k}" for kind in ("class", "prob") for k in range(spec.num_stored)]
        outside = ["outside_prob"] if spec.include_target else []
        table = self._table([*names, *outside])
        found = [tables.column(table, name) for name in names]
        # Column after column in memory: sums over a row's few classes are several times as fast.
        return SparseLabels(
            np.stack(found[: spec.num_stored]).T,
            np.stack(found[spec.num_stored :]).T,
            tables.column(table, "outside_prob") if outside else None,
        )

    def dense_blocks(
        self, only: Sequence[int] | None = None
    ) -> Iterator[tuple[int, int, NDArray[np.float16]]]:
        """(first image, one past the last, stored values (images, M, C)) of a dense kind.

        They are the array ``prob`` of kind full, and ``logit`` (image, crop, output) of logits; all
        blocks of the part, or those of the numbers given.
        """
        reader, name = self._reader(), "logit" if self.spec.kind == "logits" else "prob"
        bounds = list(reader.blocks())
        for start, stop in bounds if only is None else [bounds[number] for number in only]:
            yield start, stop, reader.read(name, start, stop)

    def require_probabilities(self) -> None:
        """Refuse labels that calibration is not defined for.

        Raises:
            DataError: the kind is logits.
        """
        if self.spec.kind == "logits":
            raise DataError(
                f"{self.layout.entry('soft', self.entry.stem)} holds labels of kind logits, which "
                "are no probabilities: calibration is not defined for them; choose another "
                "compress.kind, or train without a calibration"
            )

    @property
    def _max_column(self) -> str:
        return "prob_0" if self.spec.max_is_prob_0 else "max_prob"

    def _table(self, columns: list[str]) -> pa.Table:
        with recorded.planned(self.layout, self.entry):
            return tables.read_table(self.layout.table("soft", self.entry.stem), columns)

    def _reader(self) -> ArrayReader:
        with recorded.planned(self.layout, self.entry):
            return ArrayReader(self.layout.arrays("soft", self.entry.stem))

    def _dense_scalars(self) -> Scalars:
        reader = self._reader()
        stop = reader.num_images

        def rows(name: str) -> NDArray[Any]:
            return reader.read(name, 0, stop)

        return Scalars(
            np.repeat(rows("image_id"), self.num_crops),
            np.repeat(rows("target"), self.num_crops),
            rows("max_prob").reshape(-1),
            rows("target_prob").reshape(-1),
        )

"""Reading one part of stored labels, whichever container its kind is kept in.

Shapes: N rows (crops), C classes.
"""

from collections.abc import Iterator
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
        self._require_probabilities()
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
        self._require_probabilities()
        if self.spec.is_dense:
            return self._dense_scalars()
        names = ["image_id", "target", self._max_column, "target_prob"]
        table = self._table(names)
        return Scalars(*(tables.column(table, name) for name in names))

    def sparse(self) -> SparseLabels:
        """Stored labels of a sparse kind."""
        spec = self.spec
        names = [f"{kind}_{k}" for kind in ("class", "prob") for k in range(spec.num_stored)]
        outside = ["outside_prob"] if spec.include_target else []
        table = self._table([*names, *outside])
        found = [tables.column(table, name) for name in names]
        return SparseLabels(
            np.stack(found[: spec.num_stored], axis=1),
            np.stack(found[spec.num_stored :], axis=1),
            tables.column(table, "outside_prob") if outside else None,
        )

    def dense_blocks(self) -> Iterator[tuple[int, int, NDArray[np.float16]]]:
        """(first image, one past the last, stored values (images, M, C)) of a dense kind.

        They are the array ``prob`` of kind full, and ``logit`` (image, crop, output) of logits.
        """
        reader, name = self._reader(), "logit" if self.spec.kind == "logits" else "prob"
        for start, stop in reader.blocks():
            yield start, stop, reader.read(name, start, stop)

    def _require_probabilities(self) -> None:
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

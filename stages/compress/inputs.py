"""What the stage compress reads: predictions of one shard, and the ground truth of its images.

Shapes: N crops of a block, R ranked classes, C classes, T temperatures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.compress.config import Config
from stages.compress.core import Predictions
from stages.shared.contract import Json, Source
from store import images, upstream
from store.arrays import ArrayReader
from store.entries import Entry
from store.images import ImageTable
from store.layout import Layout, part_name


@dataclass(frozen=True, slots=True)
class Inputs:
    """Predictions of one shard and the ground truth of its images."""

    layout: Layout
    first_image_id: int
    images: ImageTable
    crops: Entry
    predictions: Entry

    def lineage(self) -> dict[str, Json]:
        """Digests of the crops, of their predictions and of the ground truth."""
        return {
            "crops": self.crops.rows_digest,
            "predictions": self.predictions.rows_digest,
            "targets": self.images.digest(self.first_image_id, "class_ids"),
        }

    @property
    def num_crops(self) -> int:
        """M, crops an image."""
        return int(self.predictions.attributes["num_crops"])

    def numbers(self, num_rejected: int) -> dict[str, Json]:
        """What is recorded of the shard."""
        return {
            "num_images": len(self.images),
            "num_crops": self.num_crops,
            "num_rejected_crops": num_rejected,
        }

    def open_predictions(self) -> "PredictionReader":
        """Open the arrays.

        Raises:
            DataError: missing or damaged.
        """
        path = self.layout.arrays("predictions", self.predictions.stem)
        temperatures = tuple(float(t) for t in self.predictions.attributes["temperatures"])
        arrays = ArrayReader(path)
        return PredictionReader(arrays, temperatures, is_dense="logp" in arrays.names)


def open_inputs(config: Config, source: Source) -> Callable[[int], Inputs]:
    """Read the image table once; the result gives the inputs of a shard.

    Raises:
        DataError: predictions are missing, or were made for other crops or images.
    """
    table = images.load(source.layout)

    def of_shard(shard: int) -> Inputs:
        start, stop = images.shard_bounds(len(table), source.num_shards, shard)
        own = table.slice(start, stop)
        stem = part_name(shard)
        predictions = upstream.require(source.layout, "predictions", stem, "infer")
        crops = upstream.require(source.layout, "crops", stem, "sample")
        shown = own.digest(start, "paths", "class_ids", "content_hashes")
        listed = source.layout.table("images", images.STEM)
        upstream.require_fit(source.layout, predictions, "images", shown, str(listed))
        drawn = source.layout.table("crops", stem)
        upstream.require_fit(source.layout, predictions, "crops", crops.rows_digest, str(drawn))
        return Inputs(source.layout, start, own, crops, predictions)

    return of_shard


@dataclass(frozen=True, slots=True)
class PredictionReader:
    """Predictions of one shard on disk."""

    arrays: ArrayReader
    temperatures: tuple[float, ...]
    is_dense: bool
    """Whether every class has its log-probability."""

    @property
    def num_ranked(self) -> int:
        """R, how many classes are ranked by the unrounded logit."""
        return self.arrays.shape("topk_class")[2]

    def blocks(self) -> Iterator[tuple[int, int, Predictions]]:
        """(first image, one past the last, predictions of their crops) of every block."""
        for start, stop in self.arrays.blocks():
            yield start, stop, self._read(start, stop)

    def _read(self, start: int, stop: int) -> Predictions:
        logsumexp = self._rows("logsumexp", start, stop)
        classes = self._rows("topk_class", start, stop).astype(np.int32)
        classes[np.isnan(logsumexp[:, 0])] = -1
        dense = self._rows("logp", start, stop) if self.is_dense else None
        if dense is None:
            ranked = self._rows("topk_logp", start, stop)
        else:
            ranked = np.take_along_axis(dense, np.maximum(classes, 0).astype(np.int64), axis=1)
        target = self._rows("target_logp", start, stop)
        return Predictions(classes, ranked, dense, target, logsumexp, self.temperatures)

    def _rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        values = self.arrays.read(name, start, stop)
        return values.reshape(-1, *values.shape[2:])

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
from store.codecs import DENSE_KINDS, LabelSpec
from store.entries import Entry
from store.errors import ParamsError
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
        return int(self.predictions.attribute("num_crops"))

    def numbers(self, num_rejected: int) -> dict[str, Json]:
        """What is recorded of the shard."""
        return {
            "num_images": len(self.images),
            "num_crops": self.num_crops,
            "num_rejected_crops": num_rejected,
        }

    def open_predictions(self) -> "PredictionReader":
        """Open the arrays of class predictions.

        Raises:
            DataError: missing or damaged.
        """
        arrays = self.open_arrays()
        return PredictionReader(arrays, _temperatures(self.predictions), "logp" in arrays.names)

    def open_arrays(self) -> ArrayReader:
        """Open the arrays, of class predictions or of the outputs of a projection head.

        Raises:
            DataError: missing or damaged.
        """
        return ArrayReader(self.layout.arrays("predictions", self.predictions.stem))

    def label_spec(self, config: Config) -> LabelSpec:
        """The label kind that the parameters ask for, of these predictions."""
        if config.kind == "logits":
            return label_spec(config, int(self.predictions.attribute("num_outputs")))
        return label_spec(config, self.images.num_classes)


def open_inputs(config: Config, source: Source) -> Callable[[int], Inputs]:
    """Read the image table once; the result gives the inputs of a shard.

    Nothing is written before all shards were looked at, so that parameters which predictions
    cannot serve cost no label.

    Raises:
        DataError: predictions are missing, or were made for other crops or images.
        ParamsError: the predictions do not hold what this kind, K or temperature needs.
    """
    table = images.load(source.layout)

    def of_shard(shard: int) -> Inputs:
        start, stop = images.shard_bounds(len(table), source.num_shards, shard)
        own = table.slice(start, stop)
        stem = part_name(shard)
        predictions = upstream.require(source.layout, "predictions", stem, "infer")
        crops = upstream.require(source.layout, "crops", stem, "sample")
        upstream.require_labelled(source.layout, table, start, stop, stem)
        drawn = source.layout.table("crops", stem)
        upstream.require_fit(source.layout, predictions, "crops", crops.rows_digest, str(drawn))
        inputs = Inputs(source.layout, start, own, crops, predictions)
        _check_outputs(config, predictions)
        if config.kind != "logits":
            _check(config, inputs.label_spec(config), source.layout, predictions)
        return inputs

    return of_shard


def label_spec(config: Config, num_classes: int) -> LabelSpec:
    """The label kind that the parameters ask for; of kind logits, ``num_classes`` are outputs."""
    is_dense = config.kind in DENSE_KINDS
    return LabelSpec(
        config.kind,
        config.k,
        num_classes,
        "float16" if is_dense else config.precision,
        config.temperature,
        config.include_target,
        config.normalize,
    )


def _check_outputs(config: Config, predictions: Entry) -> None:
    """Probabilities come from class predictions, and logits from those of a projection head."""
    is_projection = "logit" in predictions.attribute("arrays")
    if is_projection and config.kind != "logits":
        raise ParamsError(
            f"compress.kind is {config.kind}, but infer.outputs is projection: outputs of a "
            "projection head are no probabilities of classes; set compress.kind to logits"
        )
    if config.kind == "logits" and not is_projection:
        raise ParamsError(
            "compress.kind is logits, but infer.outputs is classes: the predictions hold "
            "log-probabilities; set infer.outputs to projection, or choose another kind"
        )


def _check(config: Config, spec: LabelSpec, layout: Layout, predictions: Entry) -> None:
    """Refuse what a shard's class predictions do not hold."""
    is_dense = "logp" in predictions.attribute("arrays")
    ranked, temperatures = _num_ranked(layout, predictions), _temperatures(predictions)
    if config.kind == "full" and not is_dense:
        raise ParamsError(
            f"compress.kind is full, but the predictions keep the top {ranked} classes; "
            "set infer.keep: dense, or choose another kind"
        )
    if config.kind != "full" and spec.num_stored > ranked:
        raise ParamsError(
            f"compress.k is {config.k}, but the predictions rank {ranked} classes; "
            "choose a smaller k, or raise infer.top_r"
        )
    if not is_dense and config.temperature not in temperatures:
        raise ParamsError(
            f"compress.temperature is {config.temperature}, but the predictions serve "
            f"{list(temperatures)}; add it to infer.temperatures"
        )


def _temperatures(predictions: Entry) -> tuple[float, ...]:
    return tuple(float(t) for t in predictions.attribute("temperatures"))


def _num_ranked(layout: Layout, predictions: Entry) -> int:
    """R; entries of older versions do not say it, their arrays do."""
    if "num_ranked" in predictions.attributes:
        return int(predictions.attributes["num_ranked"])
    path = layout.arrays("predictions", predictions.stem)
    return ArrayReader(path).shape("topk_class")[2]


@dataclass(frozen=True, slots=True)
class PredictionReader:
    """Predictions of one shard on disk."""

    arrays: ArrayReader
    temperatures: tuple[float, ...]
    is_dense: bool
    """Whether every class has its log-probability."""

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

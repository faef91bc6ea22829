"""The stage compress: predictions -> soft labels of one kind, for one shard. Needs no GPU."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.compress.config import Config
from stages.compress.core import Predictions
from stages.shared.contract import Json, Progress, Report, Source
from store import images, shelf, tables, upstream
from store.arrays import ArrayReader, ArraySpec, ArrayWriter
from store.codecs import LabelSpec, SparseLabels, encode, encode_full
from store.digest import RowsDigest
from store.entries import Entry
from store.errors import ParamsError
from store.images import ImageTable
from store.layout import Layout, part_name
from store.parts import PartWriter
from store.precision import round_probability
from store.schema import soft

ARTIFACT = "soft"
REVISION = 1
"""Raised when the same parameters would give other rows."""

Columns = dict[str, NDArray[Any]]


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


def summarise(artifact: str, numbers: Sequence[dict[str, Any]]) -> Report:
    """What the shards show together."""
    num_rows = sum(each["num_images"] * each["num_crops"] for each in numbers)
    num_rejected = sum(each["num_rejected_crops"] for each in numbers)
    rejected = f", {num_rejected:,} of them rejected" if num_rejected else ""
    return Report(lines=(f"labels of {num_rows:,} crops{rejected}",))


def run(config: Config, inputs: Inputs, output: PartWriter, progress: Progress) -> Report:
    """Compress a shard's predictions and publish them.

    Raises:
        ParamsError: the predictions do not hold what this kind, K or temperature needs.
    """
    reader = ArrayReader(inputs.layout.arrays("predictions", inputs.predictions.stem))
    spec = label_spec(config, inputs.images.num_classes)
    progress.start(f"compress {output.stem}", len(inputs.images), "images")
    if config.kind == "full":
        return _publish_full(spec, inputs, reader, output, progress)
    parts = [
        _sparse_columns(spec, predictions, inputs.images.class_ids[start:stop])
        for start, stop, predictions in _blocks(config, inputs, reader, progress)
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    num_crops = reader.shape("target_logp")[1]
    last = inputs.first_image_id + len(inputs.images)
    image_ids = np.arange(inputs.first_image_id, last, dtype=np.int32)
    columns["image_id"] = np.repeat(image_ids, num_crops)
    columns["crop"] = np.tile(np.arange(num_crops, dtype=np.int16), len(inputs.images))
    schema = soft(
        spec.num_stored,
        has_max_prob=not spec.max_is_prob_0,
        has_outside_prob=spec.include_target,
    )
    report = _report(inputs, num_crops, columns["target_prob"])
    output.publish_table(
        tables.make_table(schema, columns),
        report.numbers,
        attributes=_attributes(spec, num_crops),
        rows_per_image=num_crops,
    )
    return report


def label_spec(config: Config, num_classes: int) -> LabelSpec:
    """The label kind that the parameters ask for.

    Raises:
        ParamsError: its parts do not fit.
    """
    precision = "float16" if config.kind == "full" else config.precision
    try:
        return LabelSpec(
            config.kind,
            config.k,
            num_classes,
            precision,
            config.temperature,
            config.include_target,
        )
    except ValueError as error:
        raise ParamsError(f"compress: {error}") from None


def _attributes(spec: LabelSpec, num_crops: int) -> dict[str, Any]:
    return {"num_crops": num_crops, "label": asdict(spec)}


def _blocks(
    config: Config, inputs: Inputs, reader: ArrayReader, progress: Progress
) -> Iterator[tuple[int, int, Predictions]]:
    """(first image, one past the last, predictions of their crops) of every block."""
    for start, stop in reader.blocks():
        predictions = _read(inputs, reader, start, stop)
        _check(config, predictions)
        yield start, stop, predictions
        progress.advance(stop - start)


def _read(inputs: Inputs, reader: ArrayReader, start: int, stop: int) -> Predictions:
    def rows(name: str) -> NDArray[Any]:
        values = reader.read(name, start, stop)
        return values.reshape(-1, *values.shape[2:])

    logsumexp = rows("logsumexp")
    classes = rows("topk_class").astype(np.int32)
    rejected = np.isnan(logsumexp[:, 0])
    classes[rejected] = -1
    dense = rows("logp") if "logp" in reader.names else None
    if dense is None:
        ranked = rows("topk_logp")
    else:
        ranked = np.take_along_axis(dense, np.maximum(classes, 0).astype(np.int64), axis=1)
    temperatures = tuple(inputs.predictions.attributes["temperatures"])
    return Predictions(classes, ranked, dense, rows("target_logp"), logsumexp, temperatures)


def _check(config: Config, predictions: Predictions) -> None:
    ranked = predictions.topk_class.shape[1]
    if config.kind == "full" and predictions.logp is None:
        raise ParamsError(
            "compress.kind = full: the predictions keep the top "
            f"{ranked} classes; set infer.keep: dense, or choose another kind"
        )
    is_all = predictions.logp is not None and ranked == predictions.logp.shape[1]
    if config.kind.startswith("marginal") and config.k > ranked and not is_all:
        raise ParamsError(
            f"compress.k = {config.k}: the predictions rank {ranked} classes; "
            "choose a smaller k, or raise infer.top_r"
        )
    if not predictions.can_serve(config.temperature):
        raise ParamsError(
            f"compress.temperature = {config.temperature}: the predictions serve "
            f"{list(predictions.temperatures)}; add it to infer.temperatures"
        )


def _sparse_columns(
    spec: LabelSpec, predictions: Predictions, class_ids: NDArray[np.int32]
) -> Columns:
    num_rows = len(predictions.topk_class)
    target = np.repeat(class_ids, num_rows // len(class_ids))
    temperature = spec.temperature
    labels: SparseLabels = encode(
        spec,
        predictions.topk_class,
        predictions.probabilities(temperature)[:, : spec.num_stored],
        target,
        predictions.target_probability(temperature),
    )
    columns: Columns = {
        "target": target,
        **_statistics(spec, predictions),
        **{f"class_{k}": labels.class_ids[:, k] for k in range(spec.num_stored)},
        **{f"prob_{k}": labels.probs[:, k] for k in range(spec.num_stored)},
    }
    if labels.target_prob is not None:
        columns["outside_prob"] = labels.target_prob
    return columns


def _statistics(spec: LabelSpec, predictions: Predictions) -> Columns:
    """The maximum and the target's probability at temperature 1, which calibration reads."""
    maximum = predictions.probabilities(1.0)[:, 0]
    return {
        "max_prob": round_probability(maximum, spec.precision),
        "target_prob": round_probability(predictions.target_probability(1.0), spec.precision),
    }


def _publish_full(
    spec: LabelSpec,
    inputs: Inputs,
    reader: ArrayReader,
    output: PartWriter,
    progress: Progress,
) -> Report:
    num_crops = reader.shape("target_logp")[1]
    attributes = _attributes(spec, num_crops)
    specs = {
        "image_id": ArraySpec("int32"),
        "target": ArraySpec("int32"),
        "max_prob": ArraySpec("float32", (num_crops,), ("crop",)),
        "target_prob": ArraySpec("float32", (num_crops,), ("crop",)),
        "prob": ArraySpec("float16", (num_crops, spec.num_classes), ("crop", "class")),
    }
    folder = inputs.layout.resumable("compress", output.key)
    writer = ArrayWriter(
        folder,
        specs,
        num_images=len(inputs.images),
        block_images=reader.block_images,
        attributes=output.metadata(attributes),
    )
    digest, target_probs = RowsDigest(), []
    config = Config(kind="full", temperature=spec.temperature)
    blocks = _blocks(config, inputs, reader, progress)
    for block, (start, stop, predictions) in enumerate(blocks):
        size, first = stop - start, inputs.first_image_id
        values: Columns = {
            "image_id": np.arange(first + start, first + stop, dtype=np.int32),
            "target": inputs.images.class_ids[start:stop],
            **{
                name: column.reshape(size, num_crops)
                for name, column in _statistics(spec, predictions).items()
            },
            "prob": encode_full(predictions.dense(spec.temperature))
            .astype(np.float16)
            .reshape(size, num_crops, -1),
        }
        writer.write(block, values)
        digest.update(values)
        target_probs.append(values["target_prob"].ravel())
    report = _report(inputs, num_crops, np.concatenate(target_probs))
    num_rows = len(inputs.images) * num_crops
    output.publish_arrays(
        writer.path, num_rows, digest.hexdigest(), report.numbers, attributes=attributes
    )
    shelf.clear(folder)
    return report


def _report(inputs: Inputs, num_crops: int, target_prob: NDArray[np.float32]) -> Report:
    num_rejected = int(np.isnan(target_prob).sum())
    return Report(
        {
            "num_images": len(inputs.images),
            "num_crops": num_crops,
            "num_rejected_crops": num_rejected,
        }
    )

"""Labels of kinds `full` and `logits`: values of every class, written block by block as arrays.

Shapes: M crops an image, C classes (or outputs of a projection head).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from stages.compress.config import Config
from stages.compress.core import Columns, Predictions, statistics
from stages.compress.inputs import Inputs
from stages.shared.contract import Progress, Report
from store import shelf
from store.arrays import ArrayReader, ArraySpec, ArrayWriter
from store.dense_codecs import encode_full, encode_logits
from store.digest import RowsDigest
from store.parts import PartWriter


def publish(
    config: Config,
    inputs: Inputs,
    output: PartWriter,
    attributes: dict[str, Any],
    progress: Progress,
) -> Report:
    """Write a shard's labels and publish them."""
    folder = inputs.layout.resumable("compress", output.key)
    arrays = inputs.open_arrays()
    writer = ArrayWriter(
        folder,
        _specs(config, inputs),
        num_images=len(inputs.images),
        block_images=arrays.block_images,
        attributes=output.metadata(attributes),
    )
    blocks = _logits(config, inputs, arrays) if config.kind == "logits" else _full(config, inputs)
    digest, num_rejected = RowsDigest(), 0
    for block, values in enumerate(blocks):
        writer.write(block, values)
        digest.update(values)
        stored = values["logit"][..., 0] if config.kind == "logits" else values["target_prob"]
        num_rejected += int(np.isnan(stored).sum())
        progress.advance(len(values["image_id"]))
    numbers = inputs.numbers(num_rejected)
    num_rows = len(inputs.images) * inputs.num_crops
    output.publish_arrays(writer.path, num_rows, digest.hexdigest(), numbers, attributes=attributes)
    shelf.clear(folder)
    return Report(numbers)


def _specs(config: Config, inputs: Inputs) -> dict[str, ArraySpec]:
    num_crops, num_values = inputs.num_crops, inputs.label_spec(config).num_classes
    ids = {"image_id": ArraySpec("int32"), "target": ArraySpec("int32")}
    if config.kind == "logits":
        return {**ids, "logit": ArraySpec("float16", (num_crops, num_values), ("crop", "output"))}
    return {
        **ids,
        "max_prob": ArraySpec("float32", (num_crops,), ("crop",)),
        "target_prob": ArraySpec("float32", (num_crops,), ("crop",)),
        "prob": ArraySpec("float16", (num_crops, num_values), ("crop", "class")),
    }


def _full(config: Config, inputs: Inputs) -> Iterator[Columns]:
    """Probabilities at the label's temperature, and what calibration reads, block by block."""
    for start, stop, predictions in inputs.open_predictions().blocks():
        yield _probabilities(config, inputs, start, stop, predictions)


def _probabilities(
    config: Config, inputs: Inputs, start: int, stop: int, predictions: Predictions
) -> Columns:
    shape = (stop - start, inputs.num_crops)
    scalars = statistics(predictions, config.precision, inputs.images.num_classes)
    probs = encode_full(predictions.dense(config.temperature)).astype(np.float16)
    return {
        **_ids(inputs, start, stop),
        **{name: values.reshape(shape) for name, values in scalars.items()},
        "prob": probs.reshape(*shape, -1),
    }


def _logits(config: Config, inputs: Inputs, arrays: ArrayReader) -> Iterator[Columns]:
    """Outputs of a projection head, block by block."""
    for start, stop in arrays.blocks():
        said = arrays.read("logit", start, stop)
        stored = encode_logits(said.reshape(-1, said.shape[-1]), config.normalize)
        yield {**_ids(inputs, start, stop), "logit": stored.reshape(said.shape)}


def _ids(inputs: Inputs, start: int, stop: int) -> Columns:
    """Ids and ground truth of the images ``start`` to ``stop`` (exclusive)."""
    first = inputs.first_image_id
    return {
        "image_id": np.arange(first + start, first + stop, dtype=np.int32),
        "target": inputs.images.class_ids[start:stop],
    }

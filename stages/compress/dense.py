"""Labels of kind `full`: a probability of every class, written block by block as arrays.

Shapes: M crops an image, C classes.
"""

from typing import Any

import numpy as np

from stages.compress.config import Config
from stages.compress.core import Columns, Predictions, statistics
from stages.compress.inputs import Inputs, PredictionReader
from stages.shared.contract import Progress, Report
from store import shelf
from store.arrays import ArraySpec, ArrayWriter
from store.dense_codecs import encode_full
from store.digest import RowsDigest
from store.parts import PartWriter


def publish(
    config: Config,
    inputs: Inputs,
    reader: PredictionReader,
    output: PartWriter,
    attributes: dict[str, Any],
    progress: Progress,
) -> Report:
    """Write a shard's labels and publish them."""
    folder = inputs.layout.resumable("compress", output.key)
    writer = ArrayWriter(
        folder,
        _specs(inputs.num_crops, inputs.images.num_classes),
        num_images=len(inputs.images),
        block_images=reader.arrays.block_images,
        attributes=output.metadata(attributes),
    )
    digest, num_rejected = RowsDigest(), 0
    for block, (start, stop, predictions) in enumerate(reader.blocks()):
        values = _values(config, inputs, start, stop, predictions)
        writer.write(block, values)
        digest.update(values)
        num_rejected += int(np.isnan(values["target_prob"]).sum())
        progress.advance(stop - start)
    numbers = inputs.numbers(num_rejected)
    num_rows = len(inputs.images) * inputs.num_crops
    output.publish_arrays(writer.path, num_rows, digest.hexdigest(), numbers, attributes=attributes)
    shelf.clear(folder)
    return Report(numbers)


def _specs(num_crops: int, num_classes: int) -> dict[str, ArraySpec]:
    return {
        "image_id": ArraySpec("int32"),
        "target": ArraySpec("int32"),
        "max_prob": ArraySpec("float32", (num_crops,), ("crop",)),
        "target_prob": ArraySpec("float32", (num_crops,), ("crop",)),
        "prob": ArraySpec("float16", (num_crops, num_classes), ("crop", "class")),
    }


def _values(
    config: Config, inputs: Inputs, start: int, stop: int, predictions: Predictions
) -> Columns:
    """Arrays of the images ``start`` to ``stop`` (exclusive)."""
    shape, first = (stop - start, inputs.num_crops), inputs.first_image_id
    scalars = statistics(predictions, config.precision, inputs.images.num_classes)
    probs = encode_full(predictions.dense(config.temperature)).astype(np.float16)
    return {
        "image_id": np.arange(first + start, first + stop, dtype=np.int32),
        "target": inputs.images.class_ids[start:stop],
        **{name: values.reshape(shape) for name, values in scalars.items()},
        "prob": probs.reshape(*shape, -1),
    }

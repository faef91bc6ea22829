"""The stage compress: predictions -> soft labels of one kind, for one shard. Needs no GPU."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from stages.compress import dense
from stages.compress.config import Config
from stages.compress.core import Columns, sparse_columns
from stages.compress.inputs import Inputs, PredictionReader, open_inputs
from stages.shared.contract import Progress, Report
from store import tables
from store.codecs import LabelSpec
from store.parts import PartWriter
from store.schema import soft

__all__ = ["ARTIFACT", "REVISION", "Inputs", "open_inputs", "run", "summarise"]

ARTIFACT = "soft"
REVISION = 3
"""Raised when the same parameters would give other rows."""


def run(config: Config, inputs: Inputs, output: PartWriter, progress: Progress) -> Report:
    """Compress a shard's predictions and publish them.

    Raises:
        DataError: the predictions are missing or damaged.
    """
    spec = inputs.label_spec(config)
    attributes = {
        "num_crops": inputs.num_crops,
        "label": asdict(spec),
        "precision": config.precision,  # of max_prob and target_prob, whatever the label's
    }
    progress.start(f"compress {output.stem}", len(inputs.images), "images")
    if spec.is_dense:
        return dense.publish(config, inputs, output, attributes, progress)
    columns = _columns(spec, inputs, inputs.open_predictions(), progress)
    schema = soft(
        spec.num_stored,
        has_max_prob=not spec.max_is_prob_0,
        has_outside_prob=spec.include_target,
    )
    numbers = inputs.numbers(int(np.isnan(columns["target_prob"]).sum()))
    output.publish_table(
        tables.make_table(schema, columns),
        numbers,
        attributes=attributes,
        rows_per_image=inputs.num_crops,
    )
    return Report(numbers)


def _columns(
    spec: LabelSpec, inputs: Inputs, reader: PredictionReader, progress: Progress
) -> Columns:
    """All columns of a sparse part, one row a crop."""
    num_crops, num_images = inputs.num_crops, len(inputs.images)
    blocks: list[Columns] = []
    for start, stop, predictions in reader.blocks():
        target = np.repeat(inputs.images.class_ids[start:stop], num_crops)
        blocks.append(sparse_columns(spec, predictions, target))
        progress.advance(stop - start)
    first = inputs.first_image_id
    image_ids = np.arange(first, first + num_images, dtype=np.int32)
    return {
        "image_id": np.repeat(image_ids, num_crops),
        "crop": np.tile(np.arange(num_crops, dtype=np.int16), num_images),
        **{name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]},
    }


def summarise(artifact: str, numbers: Sequence[dict[str, Any]]) -> Report:
    """What the shards show together."""
    num_rows = sum(each["num_images"] * each["num_crops"] for each in numbers)
    num_rejected = sum(each["num_rejected_crops"] for each in numbers)
    rejected = f", {num_rejected:,} of them rejected" if num_rejected else ""
    return Report(lines=(f"labels of {num_rows:,} crops{rejected}",))

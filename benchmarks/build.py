"""Writing an ordinary label store from arrays, through the code of the stages.

Shapes: N images, M crops an image.

No image is decoded and no teacher runs: the table of images and the predictions come from arrays.
All else is what the stages write, with keys, entries and manifests.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from benchmarks.arrays import Labels, Ranked
from stages.compress import run as compress
from stages.compress.config import Config as CompressConfig
from stages.compress.core import Predictions
from stages.compress.inputs import Inputs, PredictionReader
from stages.sample import run as sample
from stages.sample.config import Config as SampleConfig
from stages.shared.contract import NoProgress, keyed_params
from store import entries, images, tables
from store.digest import sha256_json
from store.entries import Entry
from store.images import ImageTable
from store.layout import FORMAT_VERSION, Layout, part_name
from store.parts import PartWriter
from store.schema import CROPS, REJECTS

BLOCK_IMAGES = 256
"""`infer.block_images` of params.yaml, by default: what compress works on at a time."""


def writer(
    layout: Layout, artifact: str, stem: str, stage: str, revision: int, params: Any, inputs: Any
) -> PartWriter:
    """The writer of one part, keyed as the application does."""
    lineage = {"revision": revision, "params": params, "inputs": inputs}
    key = sha256_json({"format": FORMAT_VERSION, "stage": stage, **lineage})
    return PartWriter(layout, artifact, stem, stage, key, lineage)


def write_images(layout: Layout, table: ImageTable) -> None:
    """Publish the table of images and an empty list of rejects, as stage index does."""
    num_images, num_classes = len(table), table.num_classes
    rows, classes = images.image_tables(table, np.full(num_images, 110_000, np.int64))
    numbers = {"num_images": num_images, "num_classes": num_classes, "num_rejects": 0}
    made_of = {"files": table.digest(0, "paths", "content_hashes")}
    indexed = writer(layout, "images", images.STEM, "index", 1, {}, made_of).publish_table(
        rows, numbers, beside={"classes": classes}
    )
    entries.write_manifest(layout, "images")
    rejects = writer(layout, "rejects", "index", "index", 1, {}, {"images": indexed.rows_digest})
    none: dict[str, list[str]] = {"path": [], "reason": []}
    rejects.publish_table(tables.make_table(REJECTS, none), {"num_rejects": 0})
    entries.write_manifest(layout, "rejects")


def write_crops(layout: Layout, labels: Labels) -> Entry:
    """Publish the boxes of all images as the one crops part, as stage sample does."""
    num_images, num_crops = labels.num_images, labels.num_crops
    boxes = labels.boxes.reshape(-1, 4)
    image_ids = np.arange(num_images, dtype=np.int32)
    rows: dict[str, Any] = {
        "image_id": np.repeat(image_ids, num_crops),
        "crop": np.tile(np.arange(num_crops, dtype=np.int16), num_images),
        **{name: boxes[:, i] for i, name in enumerate(("top", "left", "height", "width"))},
        "flip": labels.flips.reshape(-1),
    }
    config = SampleConfig(num_crops=num_crops)
    made_of = {"images": labels.table.digest(0, "paths", "heights", "widths")}
    params = keyed_params(config)
    part = writer(layout, "crops", part_name(0), "sample", sample.REVISION, params, made_of)
    entry = part.publish_table(
        tables.make_table(CROPS, rows),
        {"num_images": num_images, "num_crops": num_crops},
        attributes={"num_crops": num_crops},
        rows_per_image=num_crops,
    )
    entries.write_manifest(layout, "crops")
    return entry


Predict = Callable[[int, int], Predictions]
"""From first image of a shard and one past the last to the predictions of their crops."""


@dataclass(frozen=True, slots=True)
class _GivenBlocks:
    """Stands in for the reader of a Zarr store: the same blocks, out of memory."""

    predict: Predict
    num_images: int

    def blocks(self) -> Iterator[tuple[int, int, Predictions]]:
        for start in range(0, self.num_images, BLOCK_IMAGES):
            stop = min(start + BLOCK_IMAGES, self.num_images)
            yield start, stop, self.predict(start, stop)


@dataclass(frozen=True, slots=True)
class GivenInputs(Inputs):
    """Inputs of stage compress whose predictions are not on disk."""

    predict: Predict

    def open_predictions(self) -> PredictionReader:
        """The predictions in blocks, nothing being read."""
        return cast(PredictionReader, _GivenBlocks(self.predict, len(self.images)))


def given_inputs(
    layout: Layout,
    table: ImageTable,
    first_image_id: int,
    crops: Entry,
    predict: Predict,
    digest: str,
) -> GivenInputs:
    """Inputs of the shard that begins with ``first_image_id``; ``table`` holds its images only.

    ``digest`` stands for what ``predict`` returns, in the key of the labels.
    """
    num_crops = crops.attribute("num_crops")
    predictions = Entry(
        artifact="predictions",
        stem=crops.stem,
        stage="infer",
        key="",
        rows=len(table) * num_crops,
        rows_digest=digest,
        files={},
        lineage={},
        attributes={"num_crops": num_crops, "temperatures": [1.0]},
    )
    return GivenInputs(layout, first_image_id, table, crops, predictions, predict)


def inputs_of(layout: Layout, labels: Labels, ranked: Ranked) -> GivenInputs:
    """Inputs of the one shard of a store whose crops are written."""
    crops = entries.find_entry(layout, "crops", part_name(0))
    assert crops is not None, "crops come first"
    return given_inputs(layout, labels.table, 0, crops, ranked.flat, ranked.rows_digest)


def soft_writer(config: CompressConfig, inputs: Inputs, layout: Layout) -> PartWriter:
    """The writer of the labels that ``inputs`` make, which may lie in another store."""
    stem, params = inputs.crops.stem, keyed_params(config)
    lineage = inputs.lineage()
    return writer(layout, "soft", stem, "compress", compress.REVISION, params, lineage)


def run_compress(config: CompressConfig, inputs: Inputs, layout: Layout) -> None:
    """Stage compress on one shard, publishing into the store ``layout``."""
    compress.run(config, inputs, soft_writer(config, inputs, layout), NoProgress())


def write_store(layout: Layout, labels: Labels, ranked: Ranked, config: CompressConfig) -> None:
    """Images, crops and labels as a whole store of one shard."""
    write_images(layout, labels.table)
    write_crops(layout, labels)
    run_compress(config, inputs_of(layout, labels, ranked), layout)
    entries.write_manifest(layout, "soft")

"""The stage sample: images -> crops, for one shard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stages.sample import augment, core
from stages.sample.config import Config
from stages.shared.contract import Json, Progress, Report, Source
from store import images, tables
from store.images import ImageTable
from store.parts import PartWriter
from store.schema import crops

ARTIFACT = "crops"
REVISION = 1
"""Raised when the same parameters would give other rows."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The images of one shard."""

    first_image_id: int
    images: ImageTable

    def lineage(self) -> dict[str, Json]:
        """Digest of the paths and sizes that boxes depend on."""
        return {"images": self.images.digest(self.first_image_id, "paths", "heights", "widths")}


def open_inputs(config: Config, source: Source) -> Callable[[int], Inputs]:
    """Read the image table once; the result gives the inputs of a shard.

    Raises:
        DataError: the stage index has not run.
    """
    table = images.load(source.layout)

    def of_shard(shard: int) -> Inputs:
        start, stop = images.shard_bounds(len(table), source.num_shards, shard)
        return Inputs(start, table.slice(start, stop))

    return of_shard


def summarise(artifact: str, numbers: Sequence[dict[str, Any]]) -> Report:
    """What the shards show together."""
    num_images = sum(each["num_images"] for each in numbers)
    num_crops = numbers[0]["num_crops"]
    return Report(lines=(f"{num_crops} crops of each of {num_images:,} images",))


def run(config: Config, inputs: Inputs, output: PartWriter, progress: Progress) -> Report:
    """Draw the crops of a shard's images and publish them."""
    table = inputs.images
    progress.start(f"sample {output.stem}", len(table), "images")
    rows = core.draw(config, inputs.first_image_id, table.paths, table.heights, table.widths)
    numbers: dict[str, Json] = {"num_images": len(table), "num_crops": config.num_crops}
    attributes: dict[str, Json] = {"num_crops": config.num_crops}
    num_ops = 0 if config.augment is None else augment.num_ops(config.augment)
    if num_ops:
        attributes["num_ops"] = num_ops
    output.publish_table(
        tables.make_table(crops(num_ops), rows),
        numbers,
        attributes=attributes,
        rows_per_image=config.num_crops,
    )
    progress.advance(len(table))
    return Report(numbers)

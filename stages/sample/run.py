"""The stage sample: images -> crops, for one shard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.sample import augment, core
from stages.sample.config import Config
from stages.sample.mix import Others
from stages.shared.contract import Json, Progress, Report, Source
from store import images, tables
from store.errors import ParamsError
from store.images import ImageTable
from store.mixing import MixKind
from store.partners import PartnerRing
from store.parts import PartWriter
from store.random import path_hashes
from store.schema import crops

ARTIFACT = "crops"
REVISION = 1
"""Raised when the same parameters would give other rows."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The images of one shard, and those that they may be mixed with."""

    first_image_id: int
    images: ImageTable
    others: Others | None = None
    """All images of the store, with `Config.mix`."""
    all_images: str | None = None
    """Their digest."""

    def lineage(self) -> dict[str, Json]:
        """Digest of the paths and sizes that boxes depend on; where crops are mixed, of all."""
        own = self.images.digest(self.first_image_id, "paths", "heights", "widths")
        found: dict[str, Json] = {"images": own}
        return found if self.all_images is None else {**found, "partners": self.all_images}


def open_inputs(config: Config, source: Source) -> Callable[[int], Inputs]:
    """Read the image table once; the result gives the inputs of a shard.

    Raises:
        DataError: the stage index has not run.
        ParamsError: crops are to be mixed, and there is but one image.
    """
    table = images.load(source.layout)
    others = None if config.mix is None else _others(table)
    digest = None if config.mix is None else table.sizes_digest

    def of_shard(shard: int) -> Inputs:
        start, stop = images.shard_bounds(len(table), source.num_shards, shard)
        return Inputs(start, table.slice(start, stop), others, digest)

    return of_shard


def _others(table: ImageTable) -> Others:
    if len(table) < 2:
        raise ParamsError("sample.mix is given, and the store has one image; allowed: null")
    return Others(PartnerRing(path_hashes(table.paths)), table.heights, table.widths)


def summarise(artifact: str, numbers: Sequence[dict[str, Any]]) -> Report:
    """What the shards show together."""
    num_images = sum(each["num_images"] for each in numbers)
    num_crops = numbers[0]["num_crops"]
    line = f"{num_crops} crops of each of {num_images:,} images"
    if "num_mixup" in numbers[0]:
        counts = (sum(each[name] for each in numbers) for name in ("num_mixup", "num_cutmix"))
        shares = [f"{count / max(1, num_images * num_crops):.1%}" for count in counts]
        line += f", of which {shares[0]} are mixed by Mixup and {shares[1]} by CutMix"
    return Report(lines=(line,))


def run(config: Config, inputs: Inputs, output: PartWriter, progress: Progress) -> Report:
    """Draw the crops of a shard's images and publish them."""
    table = inputs.images
    progress.start(f"sample {output.stem}", len(table), "images")
    sizes = (table.heights, table.widths)
    rows = core.draw(config, inputs.first_image_id, table.paths, *sizes, inputs.others)
    numbers: dict[str, Json] = {"num_images": len(table), "num_crops": config.num_crops}
    attributes: dict[str, Json] = {"num_crops": config.num_crops}
    num_ops = 0 if config.augment is None else augment.num_ops(config.augment)
    if num_ops:
        attributes["num_ops"] = num_ops
    if config.mix is not None:
        attributes["has_mix"] = True
        numbers["num_mixup"] = int(np.count_nonzero(rows["mix"] == MixKind.MIXUP))
        numbers["num_cutmix"] = int(np.count_nonzero(rows["mix"] == MixKind.CUTMIX))
    output.publish_table(
        tables.make_table(crops(num_ops, has_mix=config.mix is not None), rows),
        numbers,
        attributes=attributes,
        rows_per_image=config.num_crops,
    )
    progress.advance(len(table))
    return Report(numbers)

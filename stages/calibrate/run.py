"""The stage calibrate: soft labels -> a verdict on every crop, as an overlay.

Two phases: ``fit`` looks at all shards at once (shares, auto thresholds and scores become cutoffs),
``run`` applies it to one shard. Neither touches predictions or a GPU.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from stages.calibrate import core
from stages.calibrate.counts import Counts
from stages.calibrate.inputs import REVISION, fit, open_inputs, why_unfitted
from stages.calibrate.recipe import Inputs, Recipe, read_crops
from stages.calibrate.suspects import Suspects
from stages.calibrate.told import fit_lines
from stages.shared.contract import Progress, Report
from store import tables
from store.images import ImageTable
from store.parts import PartWriter
from store.schema import CALIBRATED, SUSPECTS
from store.soft_part import SoftPart

__all__ = [
    "REVISION",
    "Inputs",
    "Recipe",
    "fit",
    "fit_lines",
    "open_inputs",
    "run",
    "summarise",
    "why_unfitted",
]


def summarise(artifact: str, numbers: Sequence[dict[str, Any]]) -> Report:
    """What share of all shards' crops each action took."""
    total = Counts()
    for each in numbers:
        total = total.merge(Counts(**each))
    name = artifact.split("/", 1)[1]
    return Report(
        lines=tuple(f"{name}: {line}" for line in total.lines()),
        warnings=tuple(f"{name}: {warning}" for warning in total.warnings()),
    )


def run(recipe: Recipe, inputs: Inputs, output: PartWriter, progress: Progress) -> Report:
    """Apply the fit to one shard; publish the overlay and, with the step noise, the suspects."""
    part = SoftPart(inputs.layout, inputs.soft)
    progress.start(f"calibrate {recipe.name} {output.stem}", part.entry.rows, "crops")
    crops = read_crops(part, recipe.steps, inputs)
    verdict = core.apply(recipe.steps, inputs.fit, crops)
    overlay, num_images = verdict.overlay, part.entry.rows // part.num_crops
    table = tables.make_table(
        CALIBRATED,
        {
            "image_id": crops.image_ids,
            "crop": np.tile(np.arange(part.num_crops, dtype=np.int16), num_images),
            "action": overlay.action,
            "teacher_weight": overlay.teacher_weight,
            "target_weight": overlay.target_weight,
        },
    )
    beside = {}
    if verdict.suspects is not None:
        stem = output.stem.replace("part", "_suspects")
        beside = {stem: suspects_table(verdict.suspects, inputs.images)}
    numbers = verdict.counts.to_json()
    output.publish_table(table, numbers, rows_per_image=part.num_crops, beside=beside)
    progress.advance(part.entry.rows)
    return Report(numbers)


def suspects_table(suspects: Suspects, images: ImageTable) -> pa.Table:
    """Suspected images as a table for people to review."""
    return tables.make_table(
        SUSPECTS,
        {
            "image_id": suspects.image_ids,
            "path": images.paths[suspects.image_ids],
            "class_id": suspects.targets,
            "teacher_class": suspects.teacher_classes,
            "agreement": suspects.agreement,
            "max_prob": suspects.max_prob,
            "target_prob": suspects.target_prob,
        },
    )

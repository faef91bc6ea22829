"""The stage infer: images + crops -> predictions, for one shard."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.infer import check
from stages.infer.blocks import Blocks
from stages.infer.config import Config
from stages.infer.core import Kept
from stages.infer.examine.chance import near_chance_below
from stages.infer.inputs import Inputs, open_inputs
from stages.infer.projection import KeptProjection
from stages.shared.contract import Json, Progress, Report
from store import shelf, tables
from store.digest import RowsDigest
from store.errors import ParamsError
from store.parts import PartWriter
from store.schema import INFER_REJECTS

__all__ = ["ARTIFACT", "REVISION", "Inputs", "open_inputs", "run", "summarise"]

ARTIFACT = "predictions"
REVISION = 1
"""Raised when the same parameters would give other rows."""


def run(config: Config, inputs: Inputs, output: PartWriter, progress: Progress) -> Report:
    """Label a shard's crops, block by block, and publish them.

    Blocks that an interrupted run finished are kept; predictions of earlier shards that still
    hold are copied. Rows of unusable images are NaN and listed in ``_rejects-*.parquet``.

    Raises:
        ParamsError: it is to be made again on another kind of device than it was made on.
        ShardError: a teacher gave NaN or infinity, or too many images are unusable.
        DataError: an input is damaged, or an image is not the one that was indexed.
    """
    if inputs.device_kind != inputs.device.type:
        raise ParamsError(
            f"{output.stem} was made on {inputs.device_kind}, this machine has "
            f"{inputs.device.type}; to make it again here, set infer.device: {inputs.device.type}"
        )
    blocks = Blocks(config, inputs, output, progress)
    blocks.write_all(before=lambda: check.look_once(config, inputs, progress))
    digest, counts = _read_back(blocks, inputs)
    is_projection = isinstance(inputs.kept, KeptProjection)
    numbers: dict[str, Json] = {
        "num_images": len(inputs.images),
        "num_crops": inputs.kept.num_crops,
        "num_outputs" if is_projection else "num_classes": inputs.kept.num_outputs,
        "num_rejected_images": len(blocks.rejects),
        **counts,
    }
    rejects_stem = output.stem.replace("part", "_rejects")
    output.publish_arrays(
        blocks.writer.path,
        len(inputs.images) * inputs.kept.num_crops,
        digest,
        numbers,
        attributes=blocks.attributes,
        beside={rejects_stem: _rejects_table(blocks.rejects, inputs)},
    )
    shelf.clear(blocks.folder)
    if blocks.num_copied:
        crops = "1 crop" if blocks.num_copied == 1 else f"{blocks.num_copied:,} crops"
        progress.note(f"infer {output.stem}: {crops} copied from earlier shards")
    if blocks.rejects:
        listed = output.layout.table(ARTIFACT, rejects_stem)
        unusable = f"{len(blocks.rejects)} images could not be used"
        progress.note(f"{output.stem}: {unusable}, see {listed}")
    return Report(numbers)


def _rejects_table(rejects: dict[int, str], inputs: Inputs) -> Any:
    rows = sorted(rejects)
    return tables.make_table(
        INFER_REJECTS,
        {
            "image_id": [inputs.first_image_id + row for row in rows],
            "path": [inputs.images.paths[row] for row in rows],
            "reason": [rejects[row] for row in rows],
        },
    )


def _read_back(blocks: Blocks, inputs: Inputs) -> tuple[str, dict[str, Json]]:
    """Rows digest of all blocks as they are on disk, and how often the teachers were right."""
    kept = inputs.kept
    digest, num_right, num_labelled = RowsDigest(), 0, 0
    for block in range(blocks.writer.num_blocks):
        values = blocks.writer.read(block)
        digest.update(values)
        usable = ~np.isnan(values[kept.MARK][..., 0])
        num_labelled += int(usable.sum())
        if isinstance(kept, Kept):
            start, stop = blocks.writer.bounds(block)
            right = values["topk_class"][..., 0] == blocks.main_classes(start, stop)
            num_right += int((right & usable).sum())
    counts: dict[str, Json] = {"num_labelled_crops": num_labelled}
    return digest.hexdigest(), counts | (
        {"num_crops_right": num_right} if isinstance(kept, Kept) else {}
    )


def summarise(artifact: str, numbers: Sequence[dict[str, Any]]) -> Report:
    """How right the teacher is on all shards together, with a warning near chance.

    Not shard by shard: images are sorted by path, so a shard holds few classes. Outputs of a
    projection head are neither right nor wrong.
    """
    num_labelled = sum(each["num_labelled_crops"] for each in numbers)
    num_rejected = sum(each["num_rejected_images"] for each in numbers)
    warnings: list[str] = []
    if "num_outputs" in numbers[0]:
        line = f"{num_labelled:,} crops labelled with {numbers[0]['num_outputs']:,} outputs each"
    else:
        num_right = sum(each["num_crops_right"] for each in numbers)
        share = num_right / max(1, num_labelled)
        line = (
            f"{num_labelled:,} crops labelled; the teacher's first class is the ground truth on "
            f"{share:.1%} of them"
        )
        if num_labelled and share < near_chance_below(numbers[0]["num_classes"]):
            warnings.append(
                f"the teacher is near chance ({share:.2%} right): its normalisation or its order "
                "of classes is probably not that of these images; ask `ferkd-pipeline teacher "
                "check` why"
            )
    if num_rejected:
        warnings.append(f"{num_rejected} images could not be used, see {artifact}/_rejects-*")
    return Report(lines=(line,), warnings=tuple(warnings))

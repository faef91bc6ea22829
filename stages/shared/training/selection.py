"""Crops of some images to read, and their labels; several of them joined.

Shapes: I images, m crops of an image, J of all crops that are mixed.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.batch import LabelBatch, RecordedMix, RecordedOps
from store.view.images import ImageFiles


@dataclass(frozen=True, slots=True)
class Selection:
    """Crops of I images to read, and their labels."""

    paths: list[str]
    """I image files."""
    heights: NDArray[np.int32]
    """(I,) pixels that the boxes were drawn for."""
    widths: NDArray[np.int32]
    """(I,)"""
    batch: LabelBatch
    """Boxes, flips and labels of I x m crops."""
    content_hashes: NDArray[np.uint64] | None = None
    """(I, 2) xxh3-128 of the files that were labelled; None: not known, or any will do."""
    partners: ImageFiles | None = None
    """What the J mixed crops of ``batch`` are mixed with, in their order; None: none is mixed."""


def truth_labels(
    boxes: NDArray[np.int32], flips: NDArray[np.bool_], targets: NDArray[np.int64]
) -> LabelBatch:
    """Return crops (I, m) labelled one-hot with their images' ``targets`` (I,)."""
    num_images, m = flips.shape
    return LabelBatch(
        boxes=boxes,
        flips=flips,
        class_ids=np.repeat(targets, m).reshape(num_images, m, 1),
        weights=np.ones((num_images, m, 1), dtype=np.float32),
        tail=np.zeros((num_images, m), dtype=np.float32),
        targets=targets,
    )


def with_truth(batch: LabelBatch) -> LabelBatch:
    """The same crops with their ground truth: of a mixed one, of both images by their shares."""
    truth = truth_labels(batch.boxes, batch.flips, batch.targets)
    if batch.mix is not None and batch.partner_targets is not None:
        own = np.broadcast_to(batch.targets[:, None], batch.flips.shape)
        shares = batch.mix.shares
        truth = replace(
            truth,
            class_ids=np.stack([own, batch.partner_targets], axis=-1),
            weights=np.stack([shares, 1 - shares], axis=-1),
        )
    return replace(truth, ops=batch.ops, mix=batch.mix, partner_targets=batch.partner_targets)


def joined(parts: list[Selection]) -> Selection:
    """Return several selections as one."""
    hashes = [each.content_hashes for each in parts if each.content_hashes is not None]
    return Selection(
        [path for part in parts for path in part.paths],
        np.concatenate([part.heights for part in parts]),
        np.concatenate([part.widths for part in parts]),
        _concatenate([part.batch for part in parts]),
        np.concatenate(hashes) if hashes else None,
        _concatenate_files([each.partners for each in parts if each.partners is not None]),
    )


def _concatenate_files(parts: list[ImageFiles]) -> ImageFiles | None:
    if not parts:
        return None
    return ImageFiles(
        [path for part in parts for path in part.paths],
        np.concatenate([part.heights for part in parts]),
        np.concatenate([part.widths for part in parts]),
        np.concatenate([part.content_hashes for part in parts]),
    )


def _concatenate(batches: list[LabelBatch]) -> LabelBatch:
    columns: dict[str, Any] = {}
    for field in fields(LabelBatch):
        values = [getattr(batch, field.name) for batch in batches]
        if field.name == "ops":
            columns[field.name] = _concatenate_ops(values)
        elif field.name == "mix":
            columns[field.name] = _concatenate_mix(values)
        else:
            columns[field.name] = None if values[0] is None else np.concatenate(values)
    return LabelBatch(**columns)


def _concatenate_ops(ops: list[RecordedOps | None]) -> RecordedOps | None:
    found = [each for each in ops if each is not None]
    if not found:
        return None
    codes, levels = [each.codes for each in found], [each.levels for each in found]
    return RecordedOps(np.concatenate(codes), np.concatenate(levels))


def _concatenate_mix(mixes: list[RecordedMix | None]) -> RecordedMix | None:
    found = [each for each in mixes if each is not None]
    if not found:
        return None
    names = [field.name for field in fields(RecordedMix)]
    columns = {name: np.concatenate([getattr(each, name) for each in found]) for name in names}
    return RecordedMix(**columns)

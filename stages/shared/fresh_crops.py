"""Crops of indexed images with their ground truth, for networks that are trained without a store.

Shapes: N images.
"""

from pathlib import Path

import numpy as np

from stages.shared.crop_config import CropConfig
from stages.shared.training.batches import FreshCrops
from stages.shared.training.config import TrainingConfig
from store.crop_plan import CropPlan
from store.errors import DataError
from store.images import ImageTable
from store.random import path_hashes


def fresh_crops(
    crops: CropConfig, training: TrainingConfig, images: ImageTable, folder: Path
) -> FreshCrops:
    """Return the crops that a network is trained on; paths of images are relative to ``folder``.

    Raises:
        DataError: there are no images.
    """
    if not len(images):
        raise DataError("the index holds no usable image; see labels/rejects/index.parquet")
    plan = CropPlan(
        crops.kind, crops.scale, crops.ratio, size=crops.size or 1, padding=crops.padding
    )
    return FreshCrops(
        files=[str(folder / path) for path in images.paths],
        targets=images.class_ids.astype(np.int64),
        hashes=path_hashes(images.paths),
        heights=images.heights,
        widths=images.widths,
        num_classes=images.num_classes,
        plan=plan,
        flip=crops.flip,
        seed=training.seed,
        content_hashes=images.content_hash_words(np.arange(len(images))),
    )

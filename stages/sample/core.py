"""Drawing crops, as arrays. N images, M crops an image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.sample.augment import draw_ops
from stages.sample.config import Config
from stages.sample.mix import Crops, Others, draw_mix
from store import mixing
from store.operations import columns_of
from store.random import CropPlan, draw_boxes, draw_flips, path_hashes

Columns = dict[str, NDArray[Any]]


def crop_plan(config: Config) -> CropPlan:
    """The distribution that boxes are drawn from."""
    if config.kind == "random_crop":
        assert config.size is not None
        return CropPlan("random_crop", size=config.size, padding=config.padding)
    return CropPlan("random_resized_crop", scale=config.scale, ratio=config.ratio)


def draw(
    config: Config,
    first_image_id: int,
    paths: NDArray[np.object_],
    heights: NDArray[np.int32],
    widths: NDArray[np.int32],
    others: Others | None = None,
) -> Columns:
    """Columns of a crops part, N * M rows by (image_id, crop).

    An image's rows depend on the seed, its path and its size alone; what it is mixed with, also on
    the few images among which that is chosen. ``others`` are all images, needed with ``mix``.
    """
    num_images, num_crops = len(paths), config.num_crops
    hashes, plan = path_hashes(paths), crop_plan(config)
    boxes = draw_boxes(config.seed, hashes, heights, widths, num_crops, plan)
    flips = draw_flips(config.seed, hashes, num_crops, config.flip)
    image_ids = np.arange(first_image_id, first_image_id + num_images, dtype=np.int32)
    rows = boxes.reshape(-1, 4)
    columns: Columns = {
        "image_id": np.repeat(image_ids, num_crops),
        "crop": np.tile(np.arange(num_crops, dtype=np.int16), num_images),
        **{name: rows[:, i] for i, name in enumerate(("top", "left", "height", "width"))},
        "flip": flips.reshape(-1),
    }
    if config.augment is not None:
        columns |= columns_of(draw_ops(config.augment, config.seed, hashes, num_crops))
    if config.mix is not None:
        assert others is not None, "open_inputs finds them"
        ids = image_ids.astype(np.int64)
        crops = Crops(config.seed, ids, hashes, num_crops, plan, config.flip)
        columns |= mixing.columns_of(draw_mix(config.mix, crops, others))
    return columns

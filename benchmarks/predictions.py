"""Writing predictions in Zarr, as stage infer would (which imports torch)."""

import numpy as np

from benchmarks.arrays import Labels, Ranked
from benchmarks.build import BLOCK_IMAGES, writer
from stages.infer import run as infer
from stages.infer.core import Kept, crop_keys
from store import entries, shelf
from store.arrays import ArrayWriter
from store.digest import RowsDigest
from store.layout import Layout, part_name


def write_predictions(layout: Layout, labels: Labels, ranked: Ranked) -> None:
    """Publish the predictions of a store of one shard in Zarr, as stage infer does."""
    crops = entries.find_entry(layout, "crops", part_name(0))
    assert crops is not None, "crops come first"
    table, num_ranked = labels.table, ranked.topk_class.shape[2]
    kept = Kept(labels.num_crops, table.num_classes, num_ranked, False, (1.0,))
    made_of = {
        "images": table.digest(0, "paths", "class_ids", "content_hashes"),
        "crops": crops.rows_digest,
    }
    part = writer(layout, "predictions", part_name(0), "infer", infer.REVISION, {}, made_of)
    attributes = {
        "num_crops": labels.num_crops,
        "num_classes": table.num_classes,
        "num_ranked": num_ranked,
        "arrays": sorted(kept.specs()),
        "temperatures": [1.0],
    }
    folder = layout.resumable("infer", part.key)
    arrays = ArrayWriter(
        folder,
        kept.specs(),
        num_images=len(table),
        block_images=BLOCK_IMAGES,
        attributes=part.metadata(attributes),
    )
    values = {
        "image_id": np.arange(len(table), dtype=np.int32),
        "crop_key": crop_keys(table, labels.boxes, labels.flips),
        **{name: getattr(ranked, name) for name in Ranked.__dataclass_fields__},
    }
    digest = RowsDigest()
    for block in range(arrays.num_blocks):
        start, stop = arrays.bounds(block)
        arrays.write(block, {name: array[start:stop] for name, array in values.items()})
        digest.update(arrays.read(block))
    part.publish_arrays(arrays.path, labels.num_rows, digest.hexdigest(), {}, attributes=attributes)
    shelf.clear(folder)

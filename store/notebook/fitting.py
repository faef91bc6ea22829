"""Which images a shard has, and whether its crops and labels were made from them.

A store does not say its number of shards. It follows from one shard: so many images from such an
id, and the digest of these images that its crops were drawn for.

Shapes: N images.
"""

import numpy as np

from store import images
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout
from store.upstream import require_fit


def num_shards(layout: Layout, table: ImageTable, crops: Entry, shard: int, likely: int) -> int:
    """Number of shards of the store that the part ``crops`` of number ``shard`` is of.

    Args:
        layout: the store.
        table: its images.
        crops: an entry of crops.
        shard: its number.
        likely: the number that a complete store has.

    Raises:
        DataError: the images are not those that these crops were drawn for.
    """
    num_images = crops.rows // max(1, int(crops.attribute("num_crops")))
    wanted = crops.lineage.get("inputs", {}).get("images")
    tried: set[int] = set()
    for number in _of_size(len(table), shard, num_images, likely):
        start, stop = images.shard_bounds(len(table), number, shard)
        if start in tried:
            continue
        tried.add(start)
        if table.slice(start, stop).digest(start, "paths", "heights", "widths") == wanted:
            return number
    # Nothing equals what no digest can be: this says what is wrong, and what to do.
    require_fit(layout, crops, "images", "", str(layout.table("images", images.STEM)))
    raise DataError(f"{layout.entry('crops', crops.stem)} says nothing of its images")


def _of_size(num_images: int, shard: int, size: int, likely: int) -> list[int]:
    """Numbers of shards with which this shard has ``size`` images; ``likely`` first."""
    numbers = np.arange(shard + 1, num_images + 1, dtype=np.int64)
    sizes = (shard + 1) * num_images // numbers - shard * num_images // numbers
    found: list[int] = numbers[sizes == size].tolist()
    return sorted(found, key=lambda number: number != likely)


def shard_of(image_id: int, num_images: int, shards: int) -> int:
    """The shard that has an image: the inverse of `store.images.shard_bounds`."""
    return ((image_id + 1) * shards - 1) // num_images

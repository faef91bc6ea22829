"""How many images and rows a part should hold."""

from dataclasses import dataclass

import pyarrow.parquet as pq

from store.arrays import ArrayReader
from store.entry import Entry
from store.images import ImageTable
from store.layout import Layout


@dataclass(frozen=True, slots=True)
class Expected:
    """What the rows of a part are checked against."""

    start: int
    """First image of the shard."""
    stop: int
    """One past its last image."""
    num_crops: int
    """M."""
    images: ImageTable
    """Of the whole store."""


def wrong_count(layout: Layout, entry: Entry, expected: Expected) -> str | None:
    """What is wrong with how many images or rows a part has; None where nothing is.

    Reads footers and Zarr metadata.

    Raises:
        DataError: they cannot be read.
    """
    num_images, num_crops = expected.stop - expected.start, expected.num_crops
    if f"{entry.stem}.parquet" not in entry.files:
        found = ArrayReader(layout.arrays(entry.artifact, entry.stem)).num_images
        return None if found == num_images else f"holds {found} images instead of {num_images}"
    if entry.artifact == "rejects":
        return None
    of_images = entry.artifact in ("images", "scores")
    wanted = num_images * (1 if of_images else num_crops)
    found = pq.read_metadata(layout.table(entry.artifact, entry.stem)).num_rows
    if found == wanted:
        return None
    why = "" if of_images else f": {num_crops} crops of each of {num_images} images"
    return f"holds {found} rows instead of {wanted}{why}"

"""The number of shards of a store, found from one of them."""

from dataclasses import replace

import pytest

from store import entries, images
from store.errors import DataError
from store.notebook import fitting
from tests.store.small_store import SmallStore


@pytest.mark.parametrize(("num_images", "num_shards"), [(8, 2), (7, 3), (1000, 64), (13, 13)])
def test_the_shard_of_an_image_is_the_one_whose_bounds_hold_it(
    num_images: int, num_shards: int
) -> None:
    for image_id in range(num_images):
        shard = fitting.shard_of(image_id, num_images, num_shards)
        start, stop = images.shard_bounds(num_images, num_shards, shard)
        assert start <= image_id < stop


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5, 7, 8])
def test_one_shard_tells_how_many_there_are(small: SmallStore, num_shards: int) -> None:
    """At least with which it has these images: a store with other shards has it as well."""
    crops = entries.read_entry(small.layout.entry("crops", "part-00000"))
    for shard in range(num_shards):
        start, stop = images.shard_bounds(len(small.table), num_shards, shard)
        own = small.table.slice(start, stop).digest(start, "paths", "heights", "widths")
        entry = replace(
            crops,
            rows=(stop - start) * 4,
            lineage={**crops.lineage, "inputs": {"images": own}},
        )
        for likely in (shard + 1, num_shards):
            found = fitting.num_shards(small.layout, small.table, entry, shard, likely)
            assert images.shard_bounds(len(small.table), found, shard) == (start, stop)
        assert found == num_shards


def test_images_that_no_number_of_shards_explains(small: SmallStore) -> None:
    crops = entries.read_entry(small.layout.entry("crops", "part-00001"))
    for table in (small.table.slice(0, 3), small.table.slice(0, 1)):
        with pytest.raises(DataError, match=r"crops/_part-00001.json was made from other images"):
            fitting.num_shards(small.layout, table, crops, 1, 2)

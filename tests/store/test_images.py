"""How images are cut into shards."""

import pytest

from store import images
from store.errors import ParamsError


@pytest.mark.parametrize(("num_images", "num_shards"), [(8, 2), (7, 3), (5, 5), (100, 7)])
def test_shards_are_contiguous_and_even(num_images: int, num_shards: int) -> None:
    cuts = [images.shard_bounds(num_images, num_shards, shard) for shard in range(num_shards)]
    assert [start for start, _ in cuts] == [0, *[stop for _, stop in cuts[:-1]]]
    assert cuts[-1][1] == num_images
    sizes = {stop - start for start, stop in cuts}
    assert max(sizes) - min(sizes) <= 1 <= min(sizes)


def test_impossible_shards_are_refused() -> None:
    for shard in (-1, 2):
        with pytest.raises(ParamsError, match=r"shard -?[0-9] is out of range"):
            images.shard_bounds(8, 2, shard)
    with pytest.raises(ParamsError, match="but there are only 8 images; allowed: 1 to 8"):
        images.shard_bounds(8, 9, 0)

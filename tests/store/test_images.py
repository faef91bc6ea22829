"""How images are cut into shards, and what their table says of them."""

import pickle

import numpy as np
import pytest

from store import images
from store.digest import rows_digest
from store.errors import ParamsError
from tests.store.small_store import SmallStore

GOLDEN_DIGEST = "d4efd73bbfe0d647da00f2cd671c0872"


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


def test_table_from_disk_says_what_the_table_in_memory_says(small: SmallStore) -> None:
    found, made = images.load(small.layout), small.table
    for name in ("paths", "class_ids", "heights", "widths", "content_hashes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
    assert (found.class_names, len(found), found.num_classes) == (made.class_names, 8, 5)
    names = ("paths", "class_ids", "heights", "widths", "content_hashes")
    assert found.slice(2, 5).slice(1, 3).paths.tolist() == made.paths[3:5].tolist()
    for start, stop in ((0, 8), (3, 5), (7, 8)):
        plain = {name: getattr(made, name)[start:stop] for name in names}
        ids = np.arange(start, stop, dtype=np.int32)
        expected = rows_digest({"image_id": ids, **plain})  # of strings, as it always was
        assert found.slice(start, stop).digest(start, *names) == expected
        assert made.slice(start, stop).digest(start, *names) == expected


def test_digest_in_lineages_never_changes(small: SmallStore) -> None:
    """Made once by the first version; stores on disk hold it."""
    assert small.table.digest(0, "paths", "class_ids") == GOLDEN_DIGEST


def test_slice_travels_without_the_other_images(small: SmallStore) -> None:
    own = pickle.loads(pickle.dumps(small.table.slice(2, 4)))
    assert own.paths.tolist() == small.table.paths[2:4].tolist()
    assert own.digest(2, "paths") == small.table.slice(2, 4).digest(2, "paths")

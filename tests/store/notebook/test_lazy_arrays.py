"""Arrays of a shard, indexed as numpy's are."""

from typing import Any

import numpy as np
import pytest
import zarr

from store.arrays import ArrayReader
from store.notebook import array_places
from store.notebook.label_store import LabelStore
from store.notebook.lazy_arrays import LazyArray
from tests.store.small_store import NUM_CLASSES, NUM_CROPS, SmallStore

SHARD = 0
"""Without the rejected image: NaN is not equal to itself."""
MASK = np.array([False, True, False, True])
CROPS = np.arange(4 * NUM_CROPS).reshape(4, NUM_CROPS) % 3 == 0
INDICES: list[Any] = [
    0, -1, np.int64(2), np.array(3), slice(None), slice(1, 3), slice(3, 1), slice(None, None, 2),
    slice(None, None, -1), slice(3, None, -2), slice(-2, None), slice(9, 12),
    (), (0,), (0, 3), (-1, slice(1, 3), 2), (slice(None), 0), (slice(1, 3), slice(None), -1),
    (slice(None, None, -1), 1), (slice(None), -1, slice(None, None, -2)), (slice(0, 0), 1),
    (0, slice(None), [1, 2]), (slice(None), [0, 1], slice(None)), (slice(1, 3), [0, 1], [2, 3]),
    [1, 3], [3, 1, 1], [-1, 0], [], np.array([[0, 1], [3, 3]]), ([1, 3],), ([0, 2], [1, 3]),
    ([0, 2], slice(None), [1, 3]), ([3, 0], 1), (slice(None), 0, [1]),
    MASK, MASK.tolist(), ~MASK & MASK, (MASK, 0), (MASK, slice(None), 1), CROPS, (CROPS, 2),
    (slice(1, 3), CROPS[0]), ..., (..., 0), (..., slice(1, 3)), (1, ...), (slice(2), ..., 0),
    (..., 0, 1), (0, 1, 2), (0, 1, 2, ...), (..., 0, 1, 2), (..., CROPS[:, :1] * np.ones(5) > 0),
    (None, 1), (1, None), (None, [0, 1]), (slice(None), None, 1), ([[True] * 4] * 4, ...),
]  # fmt: skip


@pytest.fixture
def logp(small: SmallStore) -> LazyArray:
    return LabelStore(small.root).predictions(SHARD)["logp"]


@pytest.fixture
def plain(small: SmallStore) -> np.ndarray[Any, Any]:
    """What zarr itself reads."""
    path = small.layout.arrays("predictions", f"part-{SHARD:05d}")
    group = zarr.open_group(path, mode="r")
    return np.asarray(group["logp"])


@pytest.mark.parametrize("run_bytes", [1, 1 << 26])
@pytest.mark.parametrize("gap_bytes", [0, 1 << 20])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_index_gives_what_it_gives_of_a_plain_array(
    logp: LazyArray,
    plain: np.ndarray[Any, Any],
    index: Any,
    gap_bytes: int,
    run_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(array_places, "_GAP_BYTES", gap_bytes)
    monkeypatch.setattr(array_places, "_RUN_BYTES", run_bytes)
    wanted = plain[index]
    found = logp[index]
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "index",
    [True, False, np.True_, (0, True), 4, -5, 1.5, "a", [0, 9], [0.5], (0, 0, 0, 0), MASK[:3],
     (..., ...), (slice(None), 4)],
    ids=str,
)  # fmt: skip
def test_what_is_no_place_is_refused_before_anything_is_read(
    logp: LazyArray, index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArrayReader, "read", None)
    with pytest.raises(IndexError) as raised:
        logp[index]
    assert "\n" not in str(raised.value)


def test_images_are_found_by_id(small: SmallStore) -> None:
    predictions = LabelStore(small.root).predictions(1)
    image_id, target = predictions["image_id"], predictions["target_logp"]
    ids = np.asarray(image_id)
    for wanted in ids:
        found = predictions["logp"][image_id == wanted]
        place = int(wanted - ids[0])
        np.testing.assert_array_equal(found, predictions["logp"][place : place + 1])
    assert predictions["logp"][image_id == 4600].shape == (0, NUM_CROPS, NUM_CLASSES)
    assert ids[0] in image_id
    assert 4600 not in image_id
    np.testing.assert_array_equal(target[target > -1], np.asarray(target)[np.asarray(target) > -1])


def test_it_computes_as_numpy_does(logp: LazyArray, plain: np.ndarray[Any, Any]) -> None:
    assert (logp.shape, logp.dtype, logp.ndim, len(logp)) == (plain.shape, plain.dtype, 3, 4)
    for found, wanted in (
        (logp == plain[0, 0, 0], plain == plain[0, 0, 0]),
        (logp != plain, plain != plain),
        (logp < -1, plain < -1),
        (logp <= -1, plain <= -1),
        (logp + 1, plain + 1),
        (np.exp(logp), np.exp(plain)),
        (np.asarray(logp, np.float64), plain.astype(np.float64)),
        (np.array(list(logp)), plain),
    ):
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(TypeError, match="unhashable"):
        hash(logp)
    with pytest.raises(ValueError, match="copy=False"):
        np.asarray(logp, copy=False)


@pytest.mark.parametrize(
    ("index", "wanted"),
    [(2, [(2, 3)]), ((slice(1, 3), 0), [(1, 3)]), ([3, 0, 3], [(0, 1), (3, 4)]),
     (MASK, [(1, 2), (3, 4)]), ((..., 0), [(0, 4)]), ((0, ...), [(0, 1)]), (slice(0, 0), [])],
    ids=str,
)  # fmt: skip
def test_only_images_that_are_named_are_read(
    logp: LazyArray, index: Any, wanted: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_places, "_GAP_BYTES", 0)
    read: list[tuple[int, int]] = []
    original = ArrayReader.read

    def spy(self: ArrayReader, name: str, start: int, stop: int) -> Any:
        read.append((start, stop))
        return original(self, name, start, stop)

    monkeypatch.setattr(ArrayReader, "read", spy)
    logp[index]
    assert read == wanted

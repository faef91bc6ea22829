from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import build, formats
from benchmarks.arrays import Labels
from benchmarks.peers.listed import PEERS, Peer
from benchmarks.peers.ours import StoreScanner, ViewReader, plan
from benchmarks.sizes import read_stored
from benchmarks.synthetic import Synthetic
from stages.compress.config import Config
from store.batch import FetchedCrops
from store.layout import Layout

FIELDS = ("boxes", "flips", "class_ids", "probs")


@pytest.fixture(scope="module")
def labels() -> Labels:
    made, _ = Synthetic(70, num_crops=7).labels()
    halves = made.probs.astype(np.float16).astype(np.float32)  # what all formats can hold
    return replace(made, probs=halves)


def assert_same(found: FetchedCrops, labels: Labels, images: object, crops: object) -> None:
    for name in FIELDS:
        values = getattr(found, name)
        np.testing.assert_array_equal(values, getattr(labels, name)[images, crops])
    assert found.boxes.dtype == np.int32
    assert found.flips.dtype == np.bool_
    assert found.probs.dtype == np.float32


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_format_gives_back_what_it_was_given(peer: Peer, labels: Labels, tmp_path: Path) -> None:
    peer.write(tmp_path, labels)
    reader = peer.open_reader(tmp_path, labels)
    rng = np.random.default_rng(0)
    images, crops = rng.permutation(70)[:20], rng.integers(0, 7, (20, 3))
    assert_same(reader.fetch(images, crops), labels, images[:, None], crops)

    parts = list(reader.scan())
    for name in FIELDS:
        scanned = np.concatenate([getattr(part, name).reshape(-1) for part in parts])
        np.testing.assert_array_equal(scanned, getattr(labels, name).reshape(-1))


def test_the_store_and_its_view_give_back_what_is_stored(tmp_path: Path) -> None:
    given, ranked = Synthetic(70, num_crops=7).labels()
    layout = Layout.beside(tmp_path / "labels")
    build.write_store(layout, given, ranked, Config())
    stored = read_stored(layout, given)
    np.testing.assert_array_equal(stored.boxes, given.boxes)
    np.testing.assert_array_equal(stored.flips, given.flips)
    np.testing.assert_array_equal(stored.class_ids, given.class_ids)
    np.testing.assert_allclose(stored.probs, given.probs, atol=0.01)
    reader = ViewReader(plan(layout).open())
    images, crops = np.array([69, 3, 3]), np.array([[6, 0], [1, 1], [2, 5]])
    assert_same(reader.fetch(images, crops), stored, images[:, None], crops)
    for scanner in (reader, StoreScanner(layout)):
        assert sum(part.flips.size for part in scanner.scan()) == stored.num_rows


def test_other_values_are_noticed(labels: Labels, tmp_path: Path) -> None:
    readers = formats.write_peers(tmp_path, labels)
    formats.check(readers, labels)
    for change in (
        {"boxes": labels.boxes + 1},
        {"flips": ~labels.flips},
        {"class_ids": labels.class_ids + 1},
        {"probs": labels.probs * np.float32(0.99)},
    ):
        with pytest.raises(AssertionError, match="reference returns other labels"):
            formats.check(readers, replace(labels, **change))


def test_the_reference_has_a_file_for_each_image(labels: Labels, tmp_path: Path) -> None:
    reference = PEERS[0]
    reference.write(tmp_path, labels)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.tar"))
    assert files == sorted(path.replace(".JPEG", ".tar") for path in labels.table.paths)


def test_labels_that_do_not_fit_two_bytes_are_refused(labels: Labels, tmp_path: Path) -> None:
    with pytest.raises(OverflowError, match="two bytes"):
        PEERS[1].write(tmp_path, replace(labels, boxes=labels.boxes - 1000))

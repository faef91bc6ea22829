"""Training views that are damaged on disk: refused, or what they serve is what was written.

A view is made from checked files, and read by its own digests: small files when it is opened, rows
when a batch first touches their block.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from store.codecs import LabelSpec
from store.errors import DataError
from store.view.build import plan_view
from store.view.reader import TrainingView
from tests.faults.soak import rounds
from tests.store.small_store import NAME, NUM_CLASSES, NUM_CROPS, SPEC, build

KINDS: dict[str, tuple[LabelSpec, str | None]] = {
    "calibrated": (SPEC, NAME),
    "target": (replace(SPEC, include_target=True), None),
    "full": (LabelSpec("full", 1, NUM_CLASSES, "float16"), NAME),
}


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of views; every test leaves them as they were."""
    found = {}
    for name, (spec, calibration) in KINDS.items():
        small = build(tmp_path_factory.mktemp(name) / "labels", spec)
        found[name] = plan_view(small.layout, 2, Path("images"), calibration).open().folder
    return found


def served(folder: Path) -> list[Any]:
    """All that training takes from a view, in batches of one image and of all."""
    view = TrainingView(folder)
    rows = np.arange(view.num_images)
    batches: list[NDArray[np.int64]] = [*rows[:, None], rows]
    # Copies: a mapping shows what comes to stand in its file.
    found: list[Any] = [view.image_ids.copy(), view.paths(rows), view.content_hashes.copy()]
    found += [view.draw(each, 3, 2, seed=1) for each in batches]
    for each in batches:
        crops = np.tile(np.arange(NUM_CROPS), (len(each), 1))
        for got in (view.gather(each, crops), view.fetch(each, crops)):
            found += [getattr(got, name) for name in got.__dataclass_fields__]
    return found


def is_same(ours: list[Any], theirs: list[Any]) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") if isinstance(a, np.ndarray) else a == b
        for a, b in zip(ours, theirs, strict=True)
    )


@contextmanager
def kept(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    try:
        yield data
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_of_a_view_is_served(views: dict[str, Path], kind: str) -> None:
    folder = views[kind]
    expected, rng, num_found, num_flips = served(folder), random.Random(kind), 0, 0
    for path in sorted(folder.iterdir()):
        with kept(path) as data:
            for _ in range(rounds(4)):
                flipped = bytearray(data)
                place, bit = rng.randrange(len(data)), rng.randrange(8)
                flipped[place] ^= 1 << bit
                path.write_bytes(flipped)
                num_flips += 1
                try:
                    assert is_same(served(folder), expected), f"bit {bit} of byte {place} of {path}"
                except DataError as error:
                    num_found += 1
                    assert str(folder) in str(error)
                    assert f"delete {folder}" in str(error) or "delete it" in str(error)
                    assert "\n" not in str(error)
    # The others hit the spaces that fill up the header of a .npy file.
    assert num_found > num_flips // 3, (num_found, num_flips)


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_values_counts(views: dict[str, Path], kind: str) -> None:
    """Each flip behind the header of each file is found."""
    folder, rng = views[kind], random.Random(kind)
    for path in sorted(folder.glob("*.npy")):
        with kept(path) as data:
            values = np.load(path).nbytes
            for _ in range(rounds(4)):
                flipped = bytearray(data)
                flipped[-1 - rng.randrange(values)] ^= 1 << rng.randrange(8)
                path.write_bytes(flipped)
                with pytest.raises(DataError, match="it is made again"):
                    raise AssertionError(f"{path}: {len(served(folder))}")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, data: path.write_bytes(b""),
    "cut": lambda path, data: path.write_bytes(data[:-3]),
    "cut to the header": lambda path, data: path.write_bytes(data[:128]),
    "zeros": lambda path, data: path.write_bytes(data[:128] + bytes(len(data) - 128)),
    "deleted": lambda path, data: path.unlink(),
    "folder": lambda path, data: folder_instead(path),
    "another": lambda path, data: path.write_bytes((path.parent / "widths.npy").read_bytes()),
    "deep": lambda path, data: path.write_bytes(b"[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_coarse_damage_of_a_view_is_refused(views: dict[str, Path], damage: str) -> None:
    for folder in views.values():
        for path in sorted(folder.iterdir()):
            if (path.name, damage) in {("widths.npy", "another")}:
                continue
            with kept(path) as data:
                if not any(data[128:]) and damage == "zeros":
                    continue  # they are zeros
                DAMAGES[damage](path, data)
                with pytest.raises(DataError, match="made again"):
                    raise AssertionError(f"{damage} {path}: {len(served(folder))}")


def test_files_of_another_view_are_refused(views: dict[str, Path]) -> None:
    """Of the same shape and type: only digests tell them apart."""
    ours, theirs = views["calibrated"], views["target"]
    for path in sorted(ours.iterdir()):
        other = theirs / path.name
        if not other.exists() or other.read_bytes() == path.read_bytes():
            continue
        with kept(path):
            shutil.copy(other, path)
            with pytest.raises(DataError, match="made again"):
                raise AssertionError(f"{path}: {len(served(ours))}")


def test_a_batch_that_touches_no_damage_is_served(views: dict[str, Path]) -> None:
    """Rows are compared when they are used: a copy of a view in a worker does so itself."""
    folder = views["full"]
    expected = served(folder)
    view = TrainingView(folder)
    assert len(view._guards) == 2
    with kept(folder / "dense.npy") as data:
        (folder / "dense.npy").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        rows = np.arange(view.num_images)
        with pytest.raises(DataError, match=r"dense\.npy is damaged: bytes from 0 on"):
            TrainingView(folder).gather(rows, np.zeros((len(rows), 1), np.int64))
        assert view.draw(rows, 0, 1, seed=0).shape == (view.num_images, 1)
    assert is_same(served(folder), expected)

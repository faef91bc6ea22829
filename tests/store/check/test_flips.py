"""A thousand random single-bit flips, and coarser damage, over every kind of file of a store.

Each must be found by verify, and no reader may crash, hang or give other values. FERKD_SOAK raises
the number of flips: `FERKD_SOAK=10 pytest tests/store/check/test_flips.py`.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.shared.contract import NoProgress
from store import entries, fit_file, recorded, tables
from store.arrays import ArrayReader
from store.check import verify
from store.check.entry_check import Found, read_artifact
from store.errors import DataError
from store.layout import list_artifacts
from tests.faults.soak import rounds
from tests.store.small_store import NAME, SPEC, SmallStore, build

NUM_FLIPS = rounds(1000)
NUM_WHOLE = max(200, NUM_FLIPS // 5)
"""Flips looked for by the whole verify, which takes longest."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[SmallStore]:
    """Sparse labels on the compact grid, and dense ones; every test leaves them as they were."""
    folder = tmp_path_factory.mktemp("flips")
    sparse = build(folder / "sparse" / "labels", replace(SPEC, precision="compact"))
    full = build(folder / "full" / "labels", replace(SPEC, kind="full"))
    for artifact in ("predictions", "rejects", "calibrated"):  # as in the other one
        shutil.rmtree(full.layout.folder(artifact))
    return [sparse, full]


def files_of(small: SmallStore) -> list[Path]:
    return sorted(path for path in small.root.rglob("*") if path.is_file())


def kind_of(path: Path) -> str:
    """Kind of a file, as a person would count them."""
    if path.suffix == ".parquet":
        return "Parquet"
    if path.name == "zarr.json":
        return "Zarr metadata"
    named = {"_manifest.json": "manifest", "_fit.json": "fit"}
    return named.get(path.name, "entry" if path.suffix == ".json" else "Zarr chunk")


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    """A file with other bytes, for a while."""
    original = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(original)


def flips(files: list[Path], seed: int, number: int) -> Iterator[tuple[Path, bytes, str]]:
    """(file, its bytes with one bit flipped, which bit).

    Each kind of file in turn: by size or count alone, the few would hardly ever be hit.
    """
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault(kind_of(path), []).append(path)
    groups = [kinds[kind] for kind in sorted(kinds)]
    for turn in range(number):
        group = groups[turn % len(groups)]
        path = group[int(rng.integers(len(group)))]
        data = bytearray(path.read_bytes())
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        data[place] ^= 1 << bit
        yield path, bytes(data), f"bit {bit} of byte {place} of {path}"


def is_found_in_its_artifact(small: SmallStore, path: Path) -> bool:
    """What verify does about bytes, for the artifact of one file only."""
    parts = path.relative_to(small.root).parts
    artifact = "/".join(parts[:2]) if parts[0] == "calibrated" else parts[0]
    found = Found()
    read_artifact(small.layout, artifact, found)
    return bool(found.damages) or any(
        recorded.problem_of(small.layout.folder(artifact) / name, record)
        for entry in found.entries
        for name, record in entry.files.items()
    )


def damages(small: SmallStore) -> list[verify.Damage]:
    return verify.verify(small.root, NoProgress()).damages


@pytest.mark.parametrize("number", [0, 1], ids=["sparse", "full"])
def test_whole_verify_finds_every_flip(stores: list[SmallStore], number: int) -> None:
    small = stores[number]
    for path, data, told in flips(files_of(small), number, NUM_WHOLE // 2):
        with changed(path, data):
            found = damages(small)
        assert found, told
        near = path.relative_to(small.root).parts[0]
        named = [damage.file for damage in found]
        assert any(near in file for file in named), (told, named)
        assert all(damage.remedy for damage in found)
    assert damages(small) == []


@pytest.mark.parametrize("number", [0, 1], ids=["sparse", "full"])
def test_every_flip_is_found_in_its_artifact(stores: list[SmallStore], number: int) -> None:
    small = stores[number]
    for path, data, told in flips(files_of(small), 10 + number, NUM_FLIPS // 2):
        with changed(path, data):
            assert is_found_in_its_artifact(small, path), told


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, cut: data[:cut],
        lambda data, cut: b"",
        lambda data, cut: bytes(len(data)),
        lambda data, cut: data + b"\0",
        lambda data, cut: data[:cut] + bytes(len(data) - cut),
        lambda data, cut: b"[" * len(data),
    ],
    ids=["truncated", "empty", "zeros", "longer", "zeros at the end", "deep JSON"],
)
def test_coarse_damage_is_found(
    stores: list[SmallStore], damage: Callable[[bytes, int], bytes]
) -> None:
    rng = np.random.default_rng(3)
    for small in stores:
        for path in files_of(small):
            data = path.read_bytes()
            with changed(path, damage(data, int(rng.integers(1, len(data))))):
                assert is_found_in_its_artifact(small, path), path
                check_readers(small, path, {})


def arrays_of(path: Path) -> dict[str, Any]:
    """Everything that our reader gives of a Zarr store."""
    reader = ArrayReader(path)
    values = {name: reader.read(name, 0, reader.num_images) for name in reader.names}
    return {**values, "attributes": reader.attributes, "blocks": list(reader.blocks())}


def check_readers(small: SmallStore, path: Path, expected: dict[str, Any]) -> None:
    """Readers of the file at ``path`` refuse it with its name and a remedy, or read it right."""
    readers: list[Callable[[], object]] = []
    folder = path.parent
    if path.name == "_fit.json":
        readers.append(lambda: fit_file.read(small.layout, f"calibrated/{NAME}"))
    elif path.name == "_manifest.json":
        readers.append(lambda: entries.read_manifest(path))
    elif path.suffix == ".json" and path.name != "zarr.json":
        readers.append(lambda: entries.read_entry(path))
    elif path.suffix == ".parquet":
        readers.append(lambda: recorded.check_file(path))
        readers.append(lambda: tables.read_table(path))
    else:
        folder = next(parent for parent in path.parents if parent.suffix == ".zarr")
        readers.append(lambda: arrays_of(folder))
    for read in readers:
        try:
            got = read()
        except DataError as error:
            assert str(folder) in str(error), error
            assert "run `" in str(error) or "upgrade" in str(error) or "run " in str(error), error
        else:
            same_values(got, expected.get(str(folder if folder.suffix == ".zarr" else path)))


def same_values(got: object, expected: object) -> None:
    if isinstance(expected, dict) and isinstance(got, dict):
        for name, values in expected.items():
            np.testing.assert_array_equal(got[name], values)
    elif expected is not None:
        assert got == expected


@pytest.mark.parametrize("number", [0, 1], ids=["sparse", "full"])
def test_readers_refuse_flips_or_read_right(stores: list[SmallStore], number: int) -> None:
    """Entries, manifests, fits and Zarr stores: the readers check digests by themselves."""
    small = stores[number]
    expected: dict[str, Any] = {str(p): arrays_of(p) for p in small.root.rglob("*.zarr")}
    for path in files_of(small):
        if path.name == "_fit.json":
            expected[str(path)] = fit_file.read(small.layout, f"calibrated/{NAME}")
        elif path.name == "_manifest.json":
            expected[str(path)] = entries.read_manifest(path)
        elif path.parent.suffix != ".zarr" and path.suffix == ".json" and path.name[0] == "_":
            expected[str(path)] = entries.read_entry(path)
    watched = [path for path in files_of(small) if path.suffix != ".parquet"]
    for path, data, _ in flips(watched, 20 + number, NUM_FLIPS // 4):
        with changed(path, data):
            check_readers(small, path, expected)


def test_tables_with_a_flip_are_refused(stores: list[SmallStore]) -> None:
    """Anywhere, footers too, of which Parquet has no checksum."""
    files = [path for path in files_of(stores[0]) if path.suffix == ".parquet"]
    for path, data, told in flips(files, 4, NUM_FLIPS // 4):
        with changed(path, data), pytest.raises(DataError, match="other bytes than recorded"):
            raise AssertionError(f"{told}: {tables.read_table(path)}")


def test_every_kind_of_file_is_covered(stores: list[SmallStore]) -> None:
    kinds = {kind_of(path) for small in stores for path in files_of(small)}
    wanted = {"Parquet", "Zarr metadata", "Zarr chunk", "manifest", "fit", "entry"}
    assert kinds == wanted
    assert len(list_artifacts(stores[0].layout)) == 6

"""Zarr stores: round trip, resuming, and every kind of damage."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from store.arrays import ArrayReader, ArraySpec, ArrayWriter, class_dtype, reject_value
from store.digest import rows_digest
from store.errors import DataError
from tests.store.processes import kill_at_line
from tests.store.small_store import files_of

NUM_IMAGES, BLOCK = 8, 3
SPECS = {
    "image_id": ArraySpec("int32"),
    "key": ArraySpec("uint64", (2,), ("crop",)),
    "logp": ArraySpec("float16", (2, 5), ("crop", "class")),
    "topk": ArraySpec("uint8", (2, 5), ("crop", "rank")),
}
ATTRIBUTES = {"key": "abc"}


def values() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    logp = -rng.random((NUM_IMAGES, 2, 5)).astype(np.float16)
    logp[4] = np.nan
    return {
        "image_id": np.arange(NUM_IMAGES, dtype=np.int32),
        "key": rng.integers(0, 2**64, (NUM_IMAGES, 2), dtype=np.uint64),
        "logp": logp,
        "topk": rng.integers(0, 255, (NUM_IMAGES, 2, 5), dtype=np.uint8),
    }


def open_writer(folder: Path, attributes: dict[str, Any] | None = None) -> ArrayWriter:
    return ArrayWriter(
        folder,
        SPECS,
        num_images=NUM_IMAGES,
        block_images=BLOCK,
        attributes=ATTRIBUTES if attributes is None else attributes,
    )


def part_of(writer: ArrayWriter, block: int) -> dict[str, NDArray[Any]]:
    start, stop = writer.bounds(block)
    return {name: array[start:stop] for name, array in values().items()}


def write(folder: Path, order: tuple[int, ...] = (0, 1, 2)) -> ArrayWriter:
    writer = open_writer(folder)
    for block in order:
        writer.write(block, part_of(writer, block), {"block": block})
    return writer


def done(writer: ArrayWriter) -> list[bool]:
    return [writer.is_done(block) for block in range(writer.num_blocks)]


def flip(path: Path, place: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def chunks(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("c/**/*") if path.is_file())


def test_round_trip(tmp_path: Path) -> None:
    writer = write(tmp_path)
    reader = ArrayReader(writer.path)
    assert reader.names == sorted(SPECS)
    assert reader.attributes == {**ATTRIBUTES, "format_version": 1}
    assert list(reader.blocks()) == [(0, 3), (3, 6), (6, 8)]
    assert (reader.num_images, reader.block_images) == (NUM_IMAGES, BLOCK)
    for name, array in values().items():
        for start, stop in [(0, 8), (2, 5), (7, 8), (3, 3)]:
            read = reader.read(name, start, stop)
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array[start:stop])
        assert reader.shape(name) == array.shape
    assert writer.note(1) == {"block": 1}
    np.testing.assert_array_equal(writer.read(2)["topk"], values()["topk"][6:])


def test_plain_zarr_opens_it(tmp_path: Path) -> None:
    group: Any = zarr.open_group(write(tmp_path).path, mode="r")
    for name, array in values().items():
        np.testing.assert_array_equal(group[name][:], array)
    assert group["logp"].metadata.dimension_names == ("image", "crop", "class")


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0), (0, 1, 2, 1, 0)])
def test_bytes_do_not_depend_on_the_order_of_blocks(tmp_path: Path, order: tuple[int, ...]) -> None:
    one, other = write(tmp_path / "a"), write(tmp_path / "b", order)
    assert files_of(one.path) == files_of(other.path)


def test_one_file_a_block_and_array(tmp_path: Path) -> None:
    assert len(chunks(write(tmp_path).path)) == 3 * len(SPECS)


def test_written_blocks_survive_and_are_known(tmp_path: Path) -> None:
    write(tmp_path, (0, 2))
    again = open_writer(tmp_path)
    assert done(again) == [True, False, True]
    assert again.note(2) == {"block": 2}
    again.write(1, part_of(again, 1))
    write(tmp_path / "straight")
    assert files_of(again.path) == files_of(tmp_path / "straight" / "arrays.zarr")


@pytest.mark.parametrize("block", [0, 2])
@pytest.mark.parametrize("name", sorted(SPECS))
def test_damaged_block_is_not_done_and_can_be_written_again(
    tmp_path: Path, name: str, block: int
) -> None:
    writer = write(tmp_path)
    expected = files_of(writer.path)
    (file,) = (
        p for p in chunks(writer.path / name) if p.parts[p.parts.index("c") + 1] == str(block)
    )
    for damage in (lambda: flip(file, 12), lambda: flip(file, -3), lambda: file.write_bytes(b"")):
        damage()
        again = open_writer(tmp_path)
        assert done(again) == [number != block for number in range(3)]
        with pytest.raises(DataError, match=r"missing or damaged|lacks a chunk"):
            again.read(block)
        again.write(block, part_of(again, block), {"block": block})
        assert done(again) == [True] * 3
        assert files_of(writer.path) == expected
    file.unlink()
    assert not open_writer(tmp_path).is_done(block)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"digest": "0", "note": null}', b"\xff"])
def test_damaged_journal_means_not_done(tmp_path: Path, text: bytes) -> None:
    writer = write(tmp_path)
    (tmp_path / "journal" / "000001.json").write_bytes(text)
    assert done(writer) == [True, False, True]


def test_other_attributes_begin_anew(tmp_path: Path) -> None:
    write(tmp_path)
    other = open_writer(tmp_path, {"key": "other"})
    assert done(other) == [False] * 3
    assert not list((tmp_path / "journal").iterdir())
    assert ArrayReader(other.path).attributes["key"] == "other"


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[]", b'{"zarr_format": 9}', b"\xff"])
@pytest.mark.parametrize("file", ["zarr.json", "logp/zarr.json"])
def test_damaged_metadata_is_told_by_the_reader_and_mended_by_the_writer(
    tmp_path: Path, file: str, text: bytes
) -> None:
    writer = write(tmp_path)
    expected = files_of(writer.path)
    (writer.path / file).write_bytes(text)
    with pytest.raises(DataError, match="missing or damaged"):
        ArrayReader(writer.path).read("logp", 0, 3)
    again = open_writer(tmp_path)
    for block, is_done in enumerate(done(again)):
        if not is_done:
            again.write(block, part_of(again, block), {"block": block})
    assert files_of(writer.path) == expected


def test_leftovers_of_zarr_are_swept(tmp_path: Path) -> None:
    writer = write(tmp_path)
    leftover = writer.path / "logp" / "c" / "0" / "0" / "0.1234.partial"
    leftover.write_bytes(b"half")
    open_writer(tmp_path)
    assert not leftover.exists()


def test_every_flipped_bit_of_a_chunk_is_found(tmp_path: Path) -> None:
    path = write(tmp_path).path
    rng, files = np.random.default_rng(0), chunks(path)
    for number in range(150):
        file = files[number % len(files)]
        data = file.read_bytes()
        flip(file, int(rng.integers(len(data))), int(rng.integers(8)))
        name = file.relative_to(path).parts[0]
        try:
            read = ArrayReader(path).read(name, 0, NUM_IMAGES)
        except DataError:
            pass
        else:  # in padding that no value is made of
            np.testing.assert_array_equal(read, values()[name])
        file.write_bytes(data)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_missing_chunk_is_told(tmp_path: Path, name: str) -> None:
    path = write(tmp_path).path
    shutil.rmtree(path / name / "c" / "1", ignore_errors=True)
    (path / name / "c" / "1").unlink(missing_ok=True)
    reader = ArrayReader(path)
    np.testing.assert_array_equal(reader.read(name, 0, 3), values()[name][:3])
    with pytest.raises(DataError, match=f"{name} lacks a chunk; delete it and run its stage"):
        reader.read(name, 0, 8)


def test_missing_store_and_array_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing or damaged"):
        ArrayReader(tmp_path / "nothing.zarr")
    (tmp_path / "file.zarr").write_bytes(b"")
    with pytest.raises(DataError, match="is missing or damaged"):
        ArrayReader(tmp_path / "file.zarr")
    reader = ArrayReader(write(tmp_path).path)
    with pytest.raises(DataError, match="colour"):
        reader.read("colour", 0, 1)


@pytest.mark.parametrize(("version", "told"), [(2, "format version 2"), ("1", "does not say")])
def test_newer_store_is_refused(tmp_path: Path, version: object, told: str) -> None:
    path = write(tmp_path).path
    raw = json.loads((path / "zarr.json").read_bytes())
    raw["attributes"]["ferkd"]["format_version"] = version
    (path / "zarr.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=told):
        ArrayReader(path)


def test_foreign_store_is_refused(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=3)
    with pytest.raises(DataError, match="missing or damaged"):
        ArrayReader(tmp_path / "x.zarr")


def test_error_of_the_disk_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ArrayReader(write(tmp_path).path)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("zarr.storage._local._get", fail)
    with pytest.raises(OSError, match="Input/output error"):
        reader.read("logp", 0, 3)


@pytest.mark.parametrize(
    ("num_classes", "expected"),
    [
        (1, "uint8"),
        (253, "uint8"),
        (254, "uint8"),
        (255, "uint16"),
        (65533, "uint16"),
        (65534, "uint16"),
        (65535, "uint32"),
    ],
)
def test_class_ids_never_meet_the_two_marks(num_classes: int, expected: str) -> None:
    assert class_dtype(num_classes) == expected
    fill, reject = ArraySpec(expected).fill, reject_value(expected)
    assert num_classes - 1 < reject < fill == np.iinfo(expected).max


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_marks_of_floats(dtype: str) -> None:
    assert np.isnan(reject_value(dtype))
    assert np.isinf(ArraySpec(dtype).fill)


def test_rejected_images_are_no_missing_chunk(tmp_path: Path) -> None:
    spec = {"image_id": ArraySpec("int32"), "topk": ArraySpec("uint8", (2,), ("rank",))}
    writer = ArrayWriter(tmp_path, spec, num_images=2, block_images=2, attributes={})
    marks = np.full((2, 2), reject_value("uint8"), np.uint8)
    writer.write(0, {"image_id": np.arange(2, dtype=np.int32), "topk": marks})
    np.testing.assert_array_equal(ArrayReader(writer.path).read("topk", 0, 2), marks)


def test_hardlinked_chunks_are_never_changed(tmp_path: Path) -> None:
    """A resumed store may have been linked into DVC's cache before."""
    writer = write(tmp_path)
    cache = tmp_path / "cache"
    for path in chunks(writer.path):
        link = cache / path.relative_to(writer.path)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(path)
    before = files_of(cache)
    other = {name: array[:3][::-1] for name, array in values().items()}
    open_writer(tmp_path).write(0, other)
    assert files_of(cache) == before


KILLED = """
import sys
from pathlib import Path
from tests.store.test_arrays import open_writer, part_of
from store import arrays

writer = open_writer(Path(sys.argv[1]))
writer.write(0, part_of(writer, 0), {"block": 0})
plain = arrays.fsync_path
count = [0]

def stop(path):
    plain(path)
    count[0] += 1
    if count[0] == 5:
        print("in the middle of a block", flush=True)
        sys.stdin.readline()

arrays.fsync_path = stop
writer.write(1, part_of(writer, 1), {"block": 1})
"""


def test_killed_in_a_block_keeps_the_blocks_before(tmp_path: Path) -> None:
    kill_at_line(KILLED, tmp_path / "a")
    again = open_writer(tmp_path / "a")
    assert done(again) == [True, False, False]
    for block in (1, 2):
        again.write(block, part_of(again, block), {"block": block})
    assert files_of(tmp_path / "a") == files_of(write(tmp_path / "b").path.parent)
    assert rows_digest(again.read(1)) == rows_digest(part_of(again, 1))

"""Zarr v3 stores of crops: written in blocks of images, each block once and whole.

Shapes: N images of a shard, M crops, and trailing dimensions of the array's own. One Zarr shard
file is one block of images. Chunks carry a checksum: Zarr's default compressor detects no flipped
bit. A missing chunk reads as the fill value, which no data equals.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from store.array_spec import ArraySpec, class_dtype, damage_is_told, reject_value
from store.atomic import fsync_path, named_in_errors, remove, write_bytes
from store.digest import canonical_json, rows_digest
from store.entry import Entry, check_version
from store.errors import DataError
from store.layout import FORMAT_VERSION
from store.recorded import check_named, entry_beside

__all__ = ["ArrayReader", "ArraySpec", "ArrayWriter", "class_dtype", "reject_value"]

# Bytes of a kind beside each other: log-probabilities take 14 % less than with zstd alone. Blosc
# checks nothing, so a CRC stands around it.
_COMPRESSORS = (BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec())
_CHUNK_BYTES = 1 << 18
"""Inner chunks of about this size: small enough to read one image without its whole block."""


class ArrayWriter:
    """Writes a Zarr store block by block; a block that was written survives a kill.

    A block counts as written once its journal line, with the digest of its values and the writer's
    note, stands in the work folder beside the store. Resuming reads such blocks back and checks
    the digest.
    """

    def __init__(
        self,
        folder: Path,
        specs: Mapping[str, ArraySpec],
        *,
        num_images: int,
        block_images: int,
        attributes: dict[str, Any],
    ) -> None:
        """Open ``folder`` (made where missing) for arrays ``specs`` over ``num_images`` images."""
        self.path = folder / "arrays.zarr"
        self._journal = folder / "journal"
        self._specs = dict(specs)
        self._num_images = num_images
        self._block = block_images
        self._journal.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.rglob("*.partial"):
            leftover.unlink()
        self._group = self._open(attributes)

    @property
    def num_blocks(self) -> int:
        """Blocks of the store, the last one possibly shorter."""
        return -(-self._num_images // self._block)

    def bounds(self, block: int) -> tuple[int, int]:
        """First image and one past the last image of a block."""
        return block * self._block, min((block + 1) * self._block, self._num_images)

    def is_done(self, block: int) -> bool:
        """Whether a block was written, is readable and has the values it was written with."""
        try:
            recorded = json.loads(self._mark(block).read_bytes())
            return bool(recorded["digest"] == rows_digest(self.read(block)))
        except (DataError, FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    def note(self, block: int) -> Any:
        """The note that a written block was written with."""
        return json.loads(self._mark(block).read_bytes())["note"]

    def read(self, block: int) -> dict[str, NDArray[Any]]:
        """Values of a written block.

        Raises:
            DataError: it is missing or damaged.
        """
        start, stop = self.bounds(block)
        with damage_is_told(self.path):
            arrays = {name: self._array(name) for name in self._specs}
        return {name: _read(array, self.path / name, start, stop) for name, array in arrays.items()}

    def write(self, block: int, values: Mapping[str, NDArray[Any]], note: Any = None) -> None:
        """Write one block, whole, durably, then its journal line with ``note`` (JSON)."""
        start, stop = self.bounds(block)
        assert set(values) == set(self._specs), (set(values), set(self._specs))
        typed = {
            name: np.ascontiguousarray(values[name], dtype=spec.dtype)
            for name, spec in self._specs.items()
        }
        self._mark(block).unlink(missing_ok=True)
        for name, array in typed.items():
            # Zarr reads what it overwrites in part, as the last block is: damage must not stop it.
            written = self.path / name / "c" / str(block)
            remove(written)
            with named_in_errors(self.path):
                self._array(name)[start:stop] = array
            for file in [written, *written.rglob("*")]:
                fsync_path(file)
            fsync_path(written.parent)
        write_bytes(self._mark(block), canonical_json({"digest": rows_digest(typed), "note": note}))

    def _mark(self, block: int) -> Path:
        return self._journal / f"{block:06d}.json"

    def _array(self, name: str) -> Any:
        return self._group[name]

    def _open(self, attributes: dict[str, Any]) -> zarr.Group:
        described = {**attributes, "format_version": FORMAT_VERSION}
        store = LocalStore(self.path)
        with suppress(DataError), damage_is_told(self.path):
            group = zarr.open_group(store, mode="r+", zarr_format=3)
            if dict(group.attrs) == {"ferkd": described} and set(group) == set(self._specs):
                return group
        for mark in self._journal.iterdir():
            mark.unlink()
        with named_in_errors(self.path):
            group = zarr.open_group(store, mode="w", zarr_format=3, attributes={"ferkd": described})
            for name, spec in self._specs.items():
                self._create(group, name, spec)
        return group

    def _create(self, group: zarr.Group, name: str, spec: ArraySpec) -> None:
        image_bytes = int(np.prod(spec.trailing, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
        per_chunk = _divisor_at_most(self._block, max(1, _CHUNK_BYTES // max(1, image_bytes)))
        group.create_array(
            name,
            shape=(self._num_images, *spec.trailing),
            chunks=(per_chunk, *spec.trailing),
            shards=(self._block, *spec.trailing),
            dtype=spec.dtype,
            compressors=_COMPRESSORS,
            fill_value=spec.fill,
            dimension_names=("image", *spec.names),
            config={"write_empty_chunks": True},
        )


def _divisor_at_most(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def _read(array: Any, path: Path, start: int, stop: int) -> NDArray[Any]:
    with damage_is_told(path):
        values = np.asarray(array[start:stop])
    if values.size and bool(np.any(values == array.fill_value)):
        raise DataError(f"{path} lacks a chunk; delete it and run its stage again")
    return values


class ArrayReader:
    """Reads a Zarr store of the label store.

    Where the entry of the part stands beside it, each file is compared with its SHA-256 before it
    is parsed, once: Zarr has no checksum of its metadata, and notices no file that took another's
    place.
    """

    def __init__(self, path: Path) -> None:
        """Open the store at ``path``.

        Raises:
            DataError: missing, damaged, not ours, or of a newer format version.
        """
        self.path = path
        self._entry: Entry | None = entry_beside(path)
        self._checked: set[str] = set()
        self._arrays: dict[str, Any] = {}
        self._check("zarr.json")
        with damage_is_told(path):
            self._group = zarr.open_group(LocalStore(path, read_only=True), mode="r")
            described: Any = self._group.attrs["ferkd"]
            self.attributes: dict[str, Any] = dict(described)
        check_version(self.attributes.get("format_version"), path)

    @property
    def names(self) -> list[str]:
        """Names of the arrays, sorted."""
        listed = () if self._entry is None else self._entry.files
        for name in listed:  # zarr parses the metadata of all
            top, _, rest = name.partition("/")
            if top == self.path.name and rest.endswith("/zarr.json"):
                self._check(rest)
        with damage_is_told(self.path):
            return sorted(self._group)

    @property
    def num_images(self) -> int:
        """Length of the first axis of every array."""
        return int(self._array("image_id").shape[0])

    @property
    def block_images(self) -> int:
        """Images of a block, the unit that is cheap to read whole."""
        return int(self._array("image_id").shards[0])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        return tuple(self._array(name).shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of an array's values."""
        kind: np.dtype[Any] = np.dtype(self._array(name).dtype)
        return kind

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop`` (exclusive) of one array.

        Raises:
            DataError: a chunk is missing, damaged, or another than recorded.
        """
        array = self._array(name)
        if self._entry is not None and stop > start:
            rest = "/0" * (len(array.shape) - 1)
            size = int(array.shards[0])
            for block in range(start // size, -(-min(stop, array.shape[0]) // size)):
                self._check(f"{name}/c/{block}{rest}")
        return _read(array, self.path / name, start, stop)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of every block, in order."""
        for start in range(0, self.num_images, self.block_images):
            yield start, min(start + self.block_images, self.num_images)

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._check(f"{name}/zarr.json")
            with damage_is_told(self.path / name):
                self._arrays[name] = self._group[name]
        return self._arrays[name]

    def _check(self, name: str) -> None:
        if self._entry is None or name in self._checked:
            return
        check_named(self._entry, self.path.parent, f"{self.path.name}/{name}")
        self._checked.add(name)

"""Digests: of bytes (SHA-256, for `verify`), of rows (xxh3-128, for lineage), of settings.

A rows digest covers names, dtypes, shapes and values, not the bytes on disk, so a new version of
pyarrow or zarr that writes other bytes does not make labels look different.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 20


def canonical_json(value: object) -> bytes:
    """JSON with one spelling for one value: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: for NaN and infinity, which JSON cannot hold.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_json(value: object) -> str:
    """SHA-256 of canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FramedText:
    """A column of text as rows digests read it, for callers that have no Python strings."""

    num_rows: int
    data: NDArray[np.uint8]
    """UTF-8 of every row behind its length in bytes (8, little endian)."""

    def __len__(self) -> int:
        """Rows."""
        return self.num_rows


class RowsDigest:
    """xxh3-128 over named columns of rows, fed in blocks cut anywhere along the first axis."""

    def __init__(self) -> None:
        """Start with no columns."""
        self._hashes: dict[str, xxhash.xxh3_128] = {}
        self._kinds: dict[str, tuple[str, list[int]]] = {}
        self._rows: dict[str, int] = {}

    def update(self, columns: Mapping[str, NDArray[Any] | FramedText]) -> None:
        """Add a block of rows. Text columns are object or string arrays of ``str``, or framed.

        Raises:
            ValueError: a column changed its dtype or its trailing shape between blocks.
        """
        for name, values in columns.items():
            shape = () if isinstance(values, FramedText) else values.shape[1:]
            plain, kind = _as_bytes_array(values), (_kind(values), list(shape))
            if self._kinds.setdefault(name, kind) != kind:
                raise ValueError(f"column {name} changed from {self._kinds[name]} to {kind}")
            self._hashes.setdefault(name, xxhash.xxh3_128()).update(plain)
            self._rows[name] = self._rows.get(name, 0) + len(values)

    def hexdigest(self) -> str:
        """Digest of all columns fed so far, 32 hex digits; the order of names does not matter."""
        parts = [
            [name, *self._kinds[name], self._rows[name], self._hashes[name].hexdigest()]
            for name in sorted(self._hashes)
        ]
        return xxhash.xxh3_128(canonical_json(parts)).hexdigest()


def rows_digest(columns: Mapping[str, NDArray[Any] | FramedText]) -> str:
    """Digest of columns that are wholly in memory; see `RowsDigest`."""
    digest = RowsDigest()
    digest.update(columns)
    return digest.hexdigest()


def _kind(values: NDArray[Any] | FramedText) -> str:
    if isinstance(values, FramedText):
        return "text"
    return "text" if values.dtype.kind in "OUT" else values.dtype.newbyteorder("<").str


def _as_bytes_array(values: NDArray[Any] | FramedText) -> Any:
    """Bytes that stand for the values: little endian, or length-prefixed UTF-8 for text."""
    if isinstance(values, FramedText):
        return values.data
    if values.dtype.kind not in "OUT":
        plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        return plain.reshape(-1).view(np.uint8)
    encoded = [str(value).encode() for value in values.ravel()]
    return b"".join(len(text).to_bytes(8, "little") + text for text in encoded)

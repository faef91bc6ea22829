"""What of a block is labelled already, kept while the block is not finished.

A block is hundreds of images, minutes of a large teacher. A kill loses what came after the last
save, half a minute; batches go on where they would have, so no byte shows it. Each save writes what
came since the one before.
"""

import json
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from stages.infer.core import Arrays
from store.array_spec import ArraySpec
from store.atomic import remove, replace_file
from store.digest import canonical_json, rows_digest

SAVE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a block that is not finished."""

    first: int
    stop: int
    """Exclusive, counted in the crops of the block that are wanted."""
    rows: Arrays
    """(stop - first, ..) by array."""
    note: dict[str, str]
    """Images that could not be used until then, with the reason."""


class Unfinished:
    """Files of unfinished blocks in a shard's work folder."""

    def __init__(self, folder: Path, specs: Mapping[str, ArraySpec]) -> None:
        """Keep rows of arrays ``specs`` in ``folder``."""
        self._folder, self._specs = folder, dict(specs)
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last save, of any block, is long enough ago; counts as one if so."""
        if time.monotonic() - self._saved_at < SAVE_SECONDS:
            return False
        self._saved_at = time.monotonic()
        return True

    def save(self, block: int, wanted: NDArray[np.uint64], piece: Piece) -> None:
        """Keep a piece of a block whose crops to be labelled are ``wanted`` (P,)."""
        head = {
            "wanted": _digest_of(wanted),
            "first": piece.first,
            "stop": piece.stop,
            "note": piece.note,
            "rows": rows_digest(piece.rows),
        }
        name = f"unfinished-{block:06d}-{piece.first:012d}"
        text = np.frombuffer(canonical_json(head), np.uint8)
        with replace_file(self._folder / name) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, head=text, **piece.rows)

    def load(self, block: int, wanted: NDArray[np.uint64]) -> list[Piece]:
        """Return the pieces that were saved, from the first row on, as far as they are whole."""
        found: list[Piece] = []
        for path in self._files(block):
            piece = self._read(path, _digest_of(wanted))
            if piece is None or piece.first != (found[-1].stop if found else 0):
                break
            found.append(piece)
        return found

    def forget(self, block: int) -> None:
        """Delete what was saved of a block, if anything."""
        for path in self._files(block):
            remove(path)

    def _files(self, block: int) -> list[Path]:
        return sorted(self._folder.glob(f"unfinished-{block:06d}-*"))

    def _read(self, path: Path, wanted: str) -> Piece | None:
        try:
            with np.load(path, allow_pickle=False) as found:
                head = json.loads(found["head"].tobytes())
                rows = {name: found[name] for name in found.files if name != "head"}
            if head["wanted"] != wanted or head["rows"] != rows_digest(rows):
                return None
            piece = Piece(int(head["first"]), int(head["stop"]), rows, dict(head["note"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None
        return piece if self._fits(piece) else None

    def _fits(self, piece: Piece) -> bool:
        kept = {name: self._specs.get(name) for name in piece.rows}
        return all(
            spec is not None
            and values.dtype == np.dtype(spec.dtype)
            and values.shape == (piece.stop - piece.first, *spec.trailing[1:])
            for spec, values in zip(kept.values(), piece.rows.values(), strict=True)
        )


def _digest_of(wanted: NDArray[np.uint64]) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(wanted, "<u8").tobytes())

"""What of a block is labelled already, kept while the block is not finished.

A block is hundreds of images, minutes of a large teacher. A kill loses what came after the last
save, half a minute; batches go on where they would have, so no byte shows it.
"""

import io
import json
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from stages.infer.core import Arrays
from store.array_spec import ArraySpec
from store.atomic import remove, write_bytes
from store.digest import canonical_json

SAVE_SECONDS = 30.0

_DIGEST_BYTES = 16


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

    def save(self, block: int, wanted: NDArray[np.uint64], rows: Arrays, note: Any) -> None:
        """Keep the first ``rows`` of a block whose crops to be labelled are ``wanted`` (P,)."""
        head = {"wanted": _digest_of(wanted), "note": note}
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, head=np.array(canonical_json(head)), **rows)
        content = packed.getvalue()
        write_bytes(self._file(block), xxhash.xxh3_128_digest(content) + content)

    def load(self, block: int, wanted: NDArray[np.uint64]) -> tuple[Arrays, Any] | None:
        """Rows and note of the last `save`; None where there is none that is whole and fits."""
        try:
            content = self._file(block).read_bytes()
        except OSError:
            return None
        if content[:_DIGEST_BYTES] != xxhash.xxh3_128_digest(content[_DIGEST_BYTES:]):
            return None
        try:
            with np.load(io.BytesIO(content[_DIGEST_BYTES:]), allow_pickle=False) as found:
                head = json.loads(bytes(found["head"]))
                rows = {name: found[name] for name in found.files if name != "head"}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        if head["wanted"] != _digest_of(wanted) or not self._fits(rows):
            return None
        return rows, head["note"]

    def forget(self, block: int) -> None:
        """Delete what was saved of a block, if anything."""
        remove(self._file(block))

    def _file(self, block: int) -> Path:
        return self._folder / f"unfinished-{block:06d}"

    def _fits(self, rows: Arrays) -> bool:
        kept = {name: self._specs[name] for name in rows if name in self._specs}
        return len(kept) == len(rows) and all(
            values.dtype == np.dtype(kept[name].dtype)
            and values.shape[1:] == tuple(kept[name].trailing[1:])
            for name, values in rows.items()
        )


def _digest_of(wanted: NDArray[np.uint64]) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(wanted, "<u8").tobytes())

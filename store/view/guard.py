"""Digests of a training view's files, so that no flipped bit of it is trained on.

Shapes: R rows of a file, B blocks of rows, n places.

A view of ImageNet is gigabytes, and a training begins in a second: what is small is compared when
the view is opened, rows when a batch first touches their block. So every byte that is used was
compared once, by the process that uses it, and nothing is read for that alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from store.errors import DataError

_BLOCK_BYTES = 1 << 16


def digest_of(values: NDArray[Any]) -> str:
    """The xxh3-128 of an array's bytes, in hex."""
    return xxhash.xxh3_128_hexdigest(_bytes_of(values).data)


def block_digests(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """The xxh3-64 (B,) of each block of rows (R, ...)."""
    step = _row_bytes(rows) << _shift(rows)
    data = _bytes_of(rows).data
    starts = range(0, data.nbytes, step)
    found = [xxhash.xxh3_64_intdigest(data[start : start + step]) for start in starts]
    return np.array(found, np.uint64)


def num_blocks(rows: NDArray[Any]) -> int:
    """B."""
    return -(-len(rows) // (1 << _shift(rows)))


class Guard:
    """Compares rows of a mapped file with their digests, each block once."""

    def __init__(self, path: Path, rows: NDArray[Any], digests: NDArray[np.uint64]) -> None:
        self._path = path
        self._data = _bytes_of(rows).data
        self._shift = _shift(rows)
        self._step = _row_bytes(rows) << self._shift
        self._digests = digests
        self._is_right = np.zeros(len(digests), np.bool_)

    def check(self, places: NDArray[np.int64]) -> None:
        """Compare the blocks that rows at ``places`` (n,) lie in, where none did before.

        Raises:
            DataError: one has other bytes than were written.
        """
        blocks = places >> self._shift
        is_right = self._is_right.take(blocks)
        if is_right.all():
            return
        for block in np.unique(blocks[~is_right]):
            start = int(block) * self._step
            found = xxhash.xxh3_64_intdigest(self._data[start : start + self._step])
            if found != int(self._digests[block]):
                raise DataError(
                    f"{self._path} is damaged: bytes from {start} on are not those that were "
                    f"written; delete {self._path.parent}: it is made again"
                )
            self._is_right[block] = True


def _bytes_of(values: NDArray[Any]) -> NDArray[np.uint8]:
    return values.reshape(-1).view(np.uint8)


def _row_bytes(rows: NDArray[Any]) -> int:
    return int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize


def _shift(rows: NDArray[Any]) -> int:
    """Rows of a block, as a power of two: about 64 KiB of them."""
    return max(0, (_BLOCK_BYTES // max(1, _row_bytes(rows))).bit_length() - 1)

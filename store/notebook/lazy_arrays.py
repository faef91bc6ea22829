"""Arrays of one Zarr part, read when they are indexed.

Shapes: N images of the part, M crops an image, then what the array has of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.arrays import ArrayReader


class LazyArray:
    """One array; indexing by an image's place in the shard, or a slice of places, reads it."""

    def __init__(self, reader: ArrayReader, name: str) -> None:
        """Read nothing yet."""
        self._reader, self.name = reader, name

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)"""
        return self._reader.shape(self.name)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: int | slice) -> NDArray[Any]:
        """One image (...) or a slice of images (n, ...), checksums verified.

        Raises:
            DataError: a chunk is missing or damaged.
            IndexError: there is no such image in this shard.
        """
        if not isinstance(places, slice):
            place = range(len(self))[places]
            return np.asarray(self._reader.read(self.name, place, place + 1)[0])
        start, stop, step = places.indices(len(self))
        if step < 1:
            raise IndexError(f"step is {step}, allowed: at least 1")
        return self._reader.read(self.name, start, max(start, stop))[::step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def __repr__(self) -> str:
        return f"LazyArray({self.name}, shape={self.shape})"


class LazyArrays(Mapping[str, LazyArray]):
    """The arrays of one part by name; opening it reads metadata only.

    >>> predictions = store.predictions(3)
    >>> predictions["logp"][10:20]    # (10, M, C) of ten images of the shard
    """

    def __init__(self, reader: ArrayReader, attributes: dict[str, Any]) -> None:
        """Take an open reader and what the part's entry says of it."""
        self._reader = reader
        self.attributes = attributes
        """What a reader must know, such as ``num_classes`` and ``temperatures``."""

    def __getitem__(self, name: str) -> LazyArray:
        if name not in self._reader.names:
            raise KeyError(f"{name}; {self._reader.path} has {', '.join(self._reader.names)}")
        return LazyArray(self._reader, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.names)

    def __len__(self) -> int:
        return len(self._reader.names)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {self[name].shape}" for name in self)
        return f"LazyArrays({self._reader.path}: {shapes})"

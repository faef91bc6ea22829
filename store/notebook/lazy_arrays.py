"""Arrays of one Zarr part, read when they are indexed.

Shapes: N images of the part, M crops an image, then what the array has of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from store.arrays import ArrayReader
from store.notebook import array_places


class LazyArray(NDArrayOperatorsMixin):
    """One array (N, ...), indexed as numpy's; images that an index leaves out are not read.

    Comparisons, arithmetic and numpy's functions read all of it and give numpy arrays:

    >>> predictions["logp"][predictions["image_id"] == 4600]    # (1, M, C)
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, reader: ArrayReader, name: str) -> None:
        """Read nothing yet."""
        self._reader, self.name = reader, name

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)"""
        return self._reader.shape(self.name)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self._reader.dtype(self.name)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Any) -> Any:
        """What numpy gives for the same index, checksums verified.

        Raises:
            DataError: a chunk is missing or damaged.
            IndexError: there is no such place, or the index is a bool.
        """
        wanted, index = array_places.split(places, self.shape)
        if isinstance(index[0], slice) and all(isinstance(part, int | slice) for part in index):
            return self._read(wanted, index[1:])[index[0]]
        return self._read(wanted, ())[index]

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))

    def __contains__(self, value: object) -> bool:
        return bool(np.any(self[:] == value))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(f"{self.name} is read from disk, which makes an array: copy=False")
        return np.asarray(self[:], dtype=dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        read = [each[:] if isinstance(each, LazyArray) else each for each in inputs]
        return getattr(ufunc, method)(*read, **options)

    def __repr__(self) -> str:
        return f"LazyArray({self.name}, shape={self.shape}, dtype={self.dtype})"

    def _read(self, wanted: NDArray[np.intp], rest: tuple[int | slice, ...]) -> NDArray[Any]:
        """Images ``wanted`` (n,), ascending, and of each what ``rest`` says: (n, ...)."""
        own = (slice(None), *rest)
        trailing = np.broadcast_to(np.False_, (1, *self.shape[1:]))[own].shape[1:]
        found = np.empty((len(wanted), *trailing), self.dtype)
        image_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        for run in array_places.runs(wanted, image_bytes):
            places = wanted[run]
            first, stop = int(places[0]), int(places[-1]) + 1
            read = self._reader.read(self.name, first, stop)[own]
            found[run] = read if len(read) == len(places) else read[places - first]
        return found


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

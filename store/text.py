"""A column of text in Arrow's buffers, cut and digested without a Python string for each row.

Shapes: N rows.
"""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from store.digest import FramedText

Text = Any
"""A TextColumn, an array of ``str``, or a string column of Arrow."""


class _Buffers:
    """A whole column; every slice of it shares this, so that it is framed once."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    @cached_property
    def framed(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Ends (N + 1,) and bytes of the texts, each behind its length."""
        text = self.array.cast(pa.large_binary())
        lengths = np.diff(_offsets(text))
        buffers = [None, pa.py_buffer(lengths.astype("<i8"))]
        frames = pa.Array.from_buffers(pa.binary(8), len(text), buffers).cast(pa.large_binary())
        empty = pa.scalar(b"", pa.large_binary())
        joined = pc.binary_join_element_wise(frames, text, empty)
        return _offsets(joined), _data(joined)


class TextColumn:
    """Rows ``start`` to ``stop`` of a column of text."""

    def __init__(self, whole: _Buffers, start: int, stop: int) -> None:
        self._whole = whole
        self._start = start
        self._stop = stop

    @classmethod
    def of(cls, values: Text) -> "TextColumn":
        """From any form of text."""
        if isinstance(values, TextColumn):
            return values
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if not isinstance(values, pa.Array):
            values = pa.array(list(values), type=pa.string())
        return cls(_Buffers(values), 0, len(values))

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        """Pickle these rows only, not the column that they were cut from."""
        return TextColumn.of, (pa.concat_arrays([self._array]),)

    def slice(self, start: int, stop: int) -> "TextColumn":
        """Rows ``start`` to ``stop`` (exclusive) of these."""
        first, last, _ = slice(start, stop).indices(self._stop - self._start)
        return TextColumn(self._whole, self._start + first, self._start + max(first, last))

    def strings(self) -> NDArray[np.object_]:
        """(N,) as Python strings."""
        found: NDArray[np.object_] = self._array.to_numpy(zero_copy_only=False)
        return found

    def framed(self) -> FramedText:
        """As rows digests read them."""
        ends, data = self._whole.framed
        own = data[ends[self._start] : ends[self._stop]]
        return FramedText(self._stop - self._start, own)

    def take(self, rows: NDArray[np.integer]) -> "TextColumn":
        """These of the rows, in their order."""
        return TextColumn.of(self._array.take(pa.array(rows)))

    def packed(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Where each of ``rows`` ends in the UTF-8 of all of them, and these bytes."""
        chosen = self._array.cast(pa.large_binary()).take(pa.array(rows))
        return _offsets(chosen)[1:], _data(chosen)

    @property
    def _array(self) -> pa.Array:
        return self._whole.array.slice(self._start, self._stop - self._start)


def _offsets(array: pa.Array) -> NDArray[np.int64]:
    """Where each text of a large binary array begins, and where the last one ends (N + 1,)."""
    ends = _ends(array)
    return np.asarray(ends - ends[0])


def _data(array: pa.Array) -> NDArray[np.uint8]:
    ends = _ends(array)
    buffer = array.buffers()[2]
    if buffer is None:  # nothing but empty texts
        return np.zeros(0, np.uint8)
    return np.frombuffer(buffer, np.uint8)[ends[0] : ends[-1]]


def _ends(array: pa.Array) -> NDArray[np.int64]:
    """The same, in the array's own buffer."""
    ends: NDArray[np.int64] = np.frombuffer(array.buffers()[1], "<i8")
    return ends[array.offset : array.offset + len(array) + 1]

"""Numbering the distinct values of a column that arrives in pieces, so that codes can stand for it.

Shapes: N values of one piece, V distinct values so far.
"""

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class FullError(Exception):
    """There are more distinct values than codes."""


class Codebook:
    """Codes of the distinct values fed so far: code c stands for ``values[c]``, for good.

    Codes go by the order in which values arrive. Threads may feed it at once.
    """

    def __init__(self, kind: pa.DataType, limit: int) -> None:
        """Start with no values, for at most ``limit`` of them."""
        self._values = pa.array([], type=kind)
        self._limit = limit
        self._lock = threading.Lock()

    @property
    def values(self) -> NDArray[Any]:
        """(V,) nulls of a float column as NaN."""
        found: NDArray[Any] = self._values.to_numpy(zero_copy_only=False)
        return found

    def encode(self, values: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
        """Codes (N,) of values; those that are new are added.

        Raises:
            FullError: more than ``limit`` distinct values were fed.
        """
        codes = pc.index_in(values, value_set=self._values)
        if codes.null_count:
            self._add(pc.unique(values.filter(pc.is_null(codes))))
            codes = pc.index_in(values, value_set=self._values)
        found: NDArray[np.int32] = codes.to_numpy()
        return found

    def _add(self, values: pa.Array) -> None:
        with self._lock:  # another thread may have added some of them by now
            known = pc.is_in(values, value_set=self._values)
            joined = pa.concat_arrays([self._values, values.filter(pc.invert(known))])
            if len(joined) > self._limit:
                raise FullError
            self._values = joined

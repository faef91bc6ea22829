"""The few different values of a long column. Shapes: N rows, V distinct values."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def distinct(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return distinct values (V,), in the order met, and for each row the place of its own (N,).

    By hashing: where there are few values, several times as fast as sorting them. All NaN are one
    value.
    """
    coded = pa.array(values, from_pandas=False).dictionary_encode()
    found = np.asarray(coded.dictionary.to_numpy(zero_copy_only=False), dtype=np.float32)
    return found, coded.indices.to_numpy().astype(np.int64)

"""One crop as a packed record of 9 + 4 K bytes, which several formats keep.

Shapes: ... any leading axes, K classes kept.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arrays import Labels
from store.batch import FetchedCrops


def record_dtype(k: int) -> np.dtype[Any]:
    """Boxes and class ids of two bytes, probabilities float16."""
    return np.dtype([("box", "<u2", 4), ("flip", "?"), ("class_id", "<u2", k), ("prob", "<f2", k)])


def pack(labels: Labels) -> NDArray[Any]:
    """(N, M) records. Raises OverflowError for labels that do not fit two bytes."""
    if labels.boxes.min() < 0 or max(labels.boxes.max(), labels.class_ids.max()) > 65535:
        raise OverflowError("boxes or class ids do not fit two bytes, which these formats use")
    records = np.empty(labels.flips.shape, record_dtype(labels.k))
    records["box"] = labels.boxes
    records["flip"] = labels.flips
    records["class_id"] = labels.class_ids
    records["prob"] = labels.probs
    return records


def unpack(records: NDArray[Any]) -> FetchedCrops:
    """Columns of records (B, m)."""
    return FetchedCrops(
        records["box"].astype(np.int32),
        np.ascontiguousarray(records["flip"]),
        records["class_id"].astype(np.int32),
        records["prob"].astype(np.float32),
    )

"""What the label store says about its labels: sizes, lineage, how sure the teacher was, actions.

Legend: N crops of a shard.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from store import entries
from store.errors import DataError
from store.layout import Layout
from store.notebook.label_store import LabelStore
from store.overlay import Action

NUM_BINS = 20
"""Bins of the histogram of maximum probabilities, each 0.05 wide: FerKD's thresholds are edges."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One folder of the store."""

    name: str
    num_shards: int
    rows: int
    num_bytes: int
    teacher: str | None
    """Digest of the weights that made it, where a teacher did."""


def artifacts(root: Path) -> list[Artifact]:
    """Return every artifact that has a complete shard, in the order of the data's way."""
    layout = Layout.beside(root)
    names = ["images", "crops", "predictions", "soft", *calibrations(root)]
    found = [(name, entries.list_entries(layout, name)) for name in names]
    return [_artifact(name, listed) for name, listed in found if listed]


def calibrations(root: Path) -> list[str]:
    """Return the artifacts of all calibrations, such as `calibrated/ferkd`, sorted."""
    folders = sorted((root / "calibrated").glob("*/"))
    return [f"calibrated/{folder.name}" for folder in folders if folder.is_dir()]


def _artifact(name: str, listed: list[entries.Entry]) -> Artifact:
    inputs = listed[0].lineage.get("inputs", {})
    return Artifact(
        name,
        len(listed),
        sum(entry.rows for entry in listed),
        sum(file.num_bytes for entry in listed for file in entry.files.values()),
        inputs.get("teacher") if isinstance(inputs, dict) else None,
    )


def max_prob_histogram(root: Path) -> NDArray[np.int64]:
    """Return (NUM_BINS,) crops by the teacher's maximum probability at temperature 1.

    A value on an edge is in the bin above it, 1 in the last. Crops without a label do not count,
    nor do labels without probabilities (kind logits).

    Raises:
        DataError: a label table cannot be read.
    """
    listed = entries.list_entries(Layout.beside(root), "soft")
    if not listed or listed[0].attribute("label").get("kind") == "logits":
        return np.zeros(NUM_BINS, np.int64)
    return LabelStore(root).max_prob_counts(NUM_BINS)[1]


def actions(root: Path, calibration: str) -> dict[str, int]:
    """Return how many crops each action of a calibration took, those that took any."""
    counts = np.zeros(256, dtype=np.int64)
    for path in sorted((root / calibration).glob("part-*.parquet")):
        with _opened(path) as file:
            for batch in file.iter_batches(columns=["action"], batch_size=1 << 20):
                counts += np.bincount(batch.column(0).to_numpy(), minlength=256)
    return {action.name.lower(): int(counts[action]) for action in Action if counts[action]}


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); run `ferkd-pipeline store verify`"
        ) from None

"""What the label store says about its labels: sizes, lineage, how sure the teacher was, actions.

Legend: N crops of a shard.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store import entries, tables
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


def artifacts(root: Path, calibrated: Iterable[str]) -> list[Artifact]:
    """Return every artifact that has a complete shard, in the order of the data's way.

    ``calibrated`` are those of them that are calibrations.
    """
    layout = Layout.beside(root)
    names = ["images", "crops", "predictions", "soft", *calibrated]
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
    """Return how many crops each action of a calibration took, those that took any.

    Raises:
        DataError: a part is damaged.
    """
    counts, layout = np.zeros(256, dtype=np.int64), Layout.beside(root)
    for entry in entries.list_entries(layout, calibration):
        path = layout.table(calibration, entry.stem)
        with tables.damage_is_told(path), tables.open_table(path) as file:
            for batch in file.iter_batches(columns=["action"], batch_size=1 << 20):
                counts += np.bincount(batch.column(0).to_numpy(), minlength=256)
    return {action.name.lower(): int(counts[action]) for action in Action if counts[action]}

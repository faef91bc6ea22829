"""The label store: its Parquet shards, and the training view that is built from them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store import entries, tables
from store.batch import FetchedCrops
from store.entries import Entry
from store.layout import Layout
from store.soft_part import SoftPart
from store.view.build import ViewPlan, plan_view
from store.view.reader import TrainingView

_SCAN_IMAGES = 100


def plan(layout: Layout, calibration: str | None = None) -> ViewPlan:
    """The view of a store; its images are taken to lie in ``images/`` beside it."""
    num_shards = len(entries.list_entries(layout, "crops"))
    return plan_view(layout, num_shards, layout.root.parent / "images", calibration)


@dataclass(frozen=True, slots=True)
class ViewReader:
    """A view as a reader of what is stored, before decoding and calibration."""

    view: TrainingView

    def fetch(self, image_ids: NDArray[np.int64], crops: NDArray[np.int64]) -> FetchedCrops:
        """The labels of ``crops`` (B, m) of images ``image_ids`` (B,), which are rows here."""
        found = self.view.fetch(image_ids, crops)
        return FetchedCrops(found.boxes, found.flips, found.class_ids, found.probs)

    def scan(self) -> Iterator[FetchedCrops]:
        """All crops, 100 images at a time."""
        every = np.arange(self.view.num_crops)
        for start in range(0, self.view.num_images, _SCAN_IMAGES):
            rows = np.arange(start, min(start + _SCAN_IMAGES, self.view.num_images))
            yield self.fetch(rows, np.broadcast_to(every, (len(rows), len(every))))


@dataclass(frozen=True, slots=True)
class StoreScanner:
    """The Parquet files of a store, read shard by shard; nobody fetches from them."""

    layout: Layout

    def scan(self) -> Iterator[FetchedCrops]:
        """All crops, a shard at a time."""
        for entry in entries.list_entries(self.layout, "soft"):
            yield read_part(self.layout, entry)


def read_part(layout: Layout, soft: Entry) -> FetchedCrops:
    """All boxes, flips, classes and probabilities of one shard, (images, M, ...), decoded."""
    names = ("top", "left", "height", "width")
    crops = tables.read_table(layout.table("crops", soft.stem), [*names, "flip"])
    part = SoftPart(layout, soft)
    stored, shape = part.sparse(), (-1, part.num_crops)
    return FetchedCrops(
        np.stack([tables.column(crops, name) for name in names], axis=1).reshape(*shape, 4),
        tables.column(crops, "flip").reshape(shape),
        stored.class_ids.reshape(*shape, part.spec.num_stored),
        stored.probs.reshape(*shape, part.spec.num_stored),
    )

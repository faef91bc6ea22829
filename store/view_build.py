"""Finding what a training view is made of, and opening it: built once for each digest of that."""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from store import images, lock, upstream
from store.codecs import LabelSpec
from store.digest import sha256_json
from store.errors import DataError, RetryError
from store.images import ImageTable
from store.layout import Layout, calibrated, part_name
from store.soft_part import SoftPart
from store.view import VIEW_VERSION, TrainingView, ViewMeta
from store.view_fill import ViewPart, build

_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """A view that can be opened: its inputs are complete and fit together."""

    layout: Layout
    meta: ViewMeta
    """``meta.digest`` names everything the view is made of, wherever the images lie."""
    table: ImageTable
    parts: list[ViewPart]

    def open(self) -> TrainingView:
        """Map the view, building it first if no one did; waits where another process builds it.

        Raises:
            DataError: a shard is damaged, or no image is left.
            FerkdError: the disk has no room for it.
        """
        # The folder of the images stands in the view's paths but is no part of what it says.
        name = sha256_json([self.meta.digest, self.meta.images_folder])[:32]
        folder = self.layout.view_cache() / name
        while not (folder / "meta.json").exists():
            try:
                with lock.hold(self.layout.view_cache() / f"{name}.lock"):
                    if not (folder / "meta.json").exists():
                        build(self.layout, folder, self.table, self.parts, self.meta)
            except RetryError:
                time.sleep(_WAIT_SECONDS)
        return TrainingView(folder)


def plan_view(
    layout: Layout, num_shards: int, images_folder: Path, calibration: str | None = None
) -> ViewPlan:
    """Find what the training view of a store's labels is made of; reads entries, no rows.

    Raises:
        DataError: shards are missing or do not fit together.
    """
    table = images.load(layout)
    parts = [
        _find_part(layout, table, num_shards, shard, calibration) for shard in range(num_shards)
    ]
    label = _one_label(layout, parts)
    if label.num_classes != table.num_classes:
        raise DataError(
            f"{layout.entry('soft', parts[0].soft.stem)} holds labels of {label.num_classes} "
            f"classes, {layout.table('images', 'classes')} lists {table.num_classes}; "
            "run `ferkd-pipeline stage infer` again"
        )
    digest = sha256_json(
        {
            "version": VIEW_VERSION,
            "images": table.digest(0, "paths", "class_ids", "heights", "widths"),
            "label": asdict(label),
            "calibration": calibration,
            "parts": [part.digests() for part in parts],
        }
    )
    folder, num_crops = os.path.abspath(images_folder), parts[0].num_crops
    meta = ViewMeta(digest, folder, 0, num_crops, table.num_classes, label, calibration)
    return ViewPlan(layout, meta, table, parts)


def _find_part(
    layout: Layout, table: ImageTable, num_shards: int, shard: int, calibration: str | None
) -> ViewPart:
    stem = part_name(shard)
    start, stop = images.shard_bounds(len(table), num_shards, shard)
    crops, soft = upstream.require_labels(layout, table, num_shards, shard)
    overlay = None
    if calibration is not None:
        overlay = upstream.require(layout, calibrated(calibration), stem, "calibrate")
        labelled = str(layout.entry("soft", stem))
        upstream.require_fit(layout, overlay, "soft", soft.rows_digest, labelled)
    return ViewPart(start, stop, crops, soft, overlay)


def _one_label(layout: Layout, parts: list[ViewPart]) -> LabelSpec:
    """The label kind of all parts, after checking that they agree on it and on M."""
    kinds = [SoftPart(layout, part.soft).spec for part in parts]
    for part, kind in zip(parts, kinds, strict=True):
        if kind != kinds[0]:
            raise DataError(
                f"{layout.entry('soft', part.soft.stem)} holds other labels ({kind}) than "
                f"{parts[0].soft.stem} ({kinds[0]}); run `ferkd-pipeline stage compress` again"
            )
        if part.num_crops != parts[0].num_crops:
            raise DataError(
                f"{layout.entry('crops', part.crops.stem)} has {part.num_crops} crops an image, "
                f"{parts[0].crops.stem} has {parts[0].num_crops}; "
                "run `ferkd-pipeline stage sample` again"
            )
    return kinds[0]

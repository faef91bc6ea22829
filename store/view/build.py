"""Finding what a training view is made of, and opening it: built once for each digest of that."""

import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa

from store import images, lock, upstream
from store.codecs import LabelSpec
from store.digest import sha256_json
from store.errors import DataError, RetryError
from store.images import ImageTable
from store.layout import Layout, calibrated, part_name
from store.soft_part import SoftPart
from store.view.fill import build
from store.view.meta import VIEW_VERSION, ViewMeta
from store.view.reader import TrainingView
from store.view.rows import ViewPart

_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """A view that can be opened: its inputs are complete and fit together."""

    layout: Layout
    meta: ViewMeta
    """``meta.digest`` names everything the view is made of, wherever the images lie."""
    class_names: tuple[str, ...]
    """Name of class c at place c."""
    parts: list[ViewPart]

    def open(self) -> TrainingView:
        """Map the view, building it first if no one did; waits where another process builds it.

        Raises:
            DataError: a shard is damaged, or no image is left.
            FerkdError: the disk has no room for it.
            RetryError: labels or images changed since the plan was made.
        """
        # Where the images lie, what their files hold and how views are laid out is no part of what
        # the view says: a new version makes new files, but trains no student again.
        meta = self.meta
        named = [VIEW_VERSION, meta.digest, meta.images_folder, meta.images_digest]
        name = sha256_json(named)[:32]
        folder = self.layout.view_cache() / name
        while not (folder / "meta.json").exists():
            with ExitStack() as stack:
                try:
                    stack.enter_context(lock.hold(self.layout.view_cache() / f"{name}.lock"))
                except RetryError:
                    time.sleep(_WAIT_SECONDS)
                    continue
                if not (folder / "meta.json").exists():
                    self._build(folder)
        return TrainingView(folder)

    def _build(self, folder: Path) -> None:
        table = images.load(self.layout)
        label, calibration = self.meta.label, self.meta.calibration
        now = (_digest(table, label, calibration, self.parts), _images_digest(self.layout))
        if now != (self.meta.digest, self.meta.images_digest):
            raise RetryError("images changed while the view was built; run again")
        for part in self.parts:
            upstream.require_labelled(self.layout, table, part.start, part.stop, part.soft.stem)
        build(self.layout, folder, table, self.parts, self.meta)


def plan_view(
    layout: Layout, num_shards: int, images_folder: Path, calibration: str | None = None
) -> ViewPlan:
    """Find what the training view of a store's labels is made of; reads entries, no rows.

    Raises:
        DataError: shards are missing or do not fit together.
    """
    table = images.load(layout, with_hashes=False)
    parts = [
        _find_part(layout, table, num_shards, shard, calibration) for shard in range(num_shards)
    ]
    label = _one_label(layout, parts)
    if calibration is not None and label.kind == "logits":
        raise DataError(
            f"{layout.entry('soft', parts[0].soft.stem)} holds labels of kind logits, for which "
            f"calibration {calibration!r} is not defined; set train.calibration to null"
        )
    if label.kind != "logits" and label.num_classes != table.num_classes:
        raise DataError(
            f"{layout.entry('soft', parts[0].soft.stem)} holds labels of {label.num_classes} "
            f"classes, {layout.table('images', 'classes')} lists {table.num_classes}; "
            "run `ferkd-pipeline stage infer` again"
        )
    digest = _digest(table, label, calibration, parts)
    folder, num_crops = os.path.abspath(images_folder), parts[0].num_crops
    num_classes, images_digest = label.num_classes, _images_digest(layout)
    meta = ViewMeta(digest, folder, 0, num_crops, num_classes, label, calibration)
    meta = replace(meta, images_digest=images_digest)
    class_names = table.class_names
    # A training keeps this process for days, and the table only names what it is made of.
    del table
    pa.default_memory_pool().release_unused()
    return ViewPlan(layout, meta, class_names, parts)


def _digest(
    table: ImageTable, label: LabelSpec, calibration: str | None, parts: list[ViewPart]
) -> str:
    return sha256_json(
        {
            "images": table.digest(0, "paths", "class_ids", "heights", "widths"),
            "label": asdict(label),
            "calibration": calibration,
            "parts": [part.digests() for part in parts],
        }
    )


def _images_digest(layout: Layout) -> str:
    """Of the images and their files, as index recorded it: nothing that grows with them is read."""
    return upstream.require(layout, "images", images.STEM, "index").rows_digest


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
    """The label kind of all parts, after checking that they agree on it, on M, P and mixing."""
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
        if part.num_ops != parts[0].num_ops:
            raise DataError(
                f"{layout.entry('crops', part.crops.stem)} has {part.num_ops} operations a crop, "
                f"{parts[0].crops.stem} has {parts[0].num_ops}; "
                "run `ferkd-pipeline stage sample` again"
            )
        if part.has_mix != parts[0].has_mix:
            mixed, alone = (part, parts[0]) if part.has_mix else (parts[0], part)
            raise DataError(
                f"{layout.entry('crops', mixed.crops.stem)} has mixed crops, {alone.crops.stem} "
                "has none; run `ferkd-pipeline stage sample` again"
            )
    return kinds[0]

"""Building the training view from the shards of a store, once for each digest of its inputs."""

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import images, lock, tables, upstream
from store.atomic import replace_folder, sweep
from store.codecs import LabelSpec
from store.digest import sha256_json
from store.entries import Entry
from store.errors import DataError, FerkdError, RetryError
from store.images import ImageTable
from store.layout import Layout, calibrated, part_name
from store.random import path_hashes
from store.soft_part import SoftPart
from store.view import VIEW_VERSION, TrainingView, ViewMeta, keep_lists, pack_paths, record_dtype

_WAIT_SECONDS = 0.5
_DISK_RESERVE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Part:
    """Entries of one shard that the view is made of."""

    start: int
    stop: int
    crops: Entry
    soft: Entry
    overlay: Entry | None

    def digests(self) -> list[str | None]:
        overlay = None if self.overlay is None else self.overlay.rows_digest
        return [self.crops.rows_digest, self.soft.rows_digest, overlay]


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """A view that can be opened: its inputs are complete and fit together."""

    layout: Layout
    meta: ViewMeta
    """``meta.digest`` names everything the view is made of."""
    table: ImageTable
    parts: list[_Part]

    def open(self) -> TrainingView:
        """Map the view, building it first if no one did; waits where another process builds it.

        Raises:
            DataError: a shard is damaged, or no image is left.
            FerkdError: the disk has no room for it.
        """
        name = self.meta.digest[:32]
        folder = self.layout.view_cache() / name
        while not (folder / "meta.json").exists():
            try:
                with lock.hold(self.layout.view_cache() / f"{name}.lock"):
                    if not (folder / "meta.json").exists():
                        _build(self.layout, folder, self.table, self.parts, self.meta)
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
    folder = os.path.abspath(images_folder)
    digest = sha256_json(
        {
            "version": VIEW_VERSION,
            "images": table.digest(0, "paths", "class_ids", "heights", "widths"),
            "folder": folder,
            "label": parts[0].soft.attributes["label"],
            "calibration": calibration,
            "parts": [part.digests() for part in parts],
        }
    )
    num_crops = int(parts[0].crops.attributes["num_crops"])
    meta = ViewMeta(digest, folder, 0, num_crops, table.num_classes, label, calibration)
    return ViewPlan(layout, meta, table, parts)


def _find_part(
    layout: Layout, table: ImageTable, num_shards: int, shard: int, calibration: str | None
) -> _Part:
    stem = part_name(shard)
    start, stop = images.shard_bounds(len(table), num_shards, shard)
    own = table.slice(start, stop)
    listed = str(layout.table("images", images.STEM))
    crops = upstream.require(layout, "crops", stem, "sample")
    sampled = own.digest(start, "paths", "heights", "widths")
    upstream.require_fit(layout, crops, "images", sampled, listed)
    soft = upstream.require(layout, "soft", stem, "compress")
    drawn = str(layout.table("crops", stem))
    upstream.require_fit(layout, soft, "crops", crops.rows_digest, drawn)
    upstream.require_fit(layout, soft, "targets", own.digest(start, "class_ids"), listed)
    overlay = None
    if calibration is not None:
        overlay = upstream.require(layout, calibrated(calibration), stem, "calibrate")
        labelled = str(layout.entry("soft", stem))
        upstream.require_fit(layout, overlay, "soft", soft.rows_digest, labelled)
    return _Part(start, stop, crops, soft, overlay)


def _one_label(layout: Layout, parts: list[_Part]) -> LabelSpec:
    kinds = [part.soft.attributes["label"] for part in parts]
    for part, kind in zip(parts, kinds, strict=True):
        if kind != kinds[0]:
            raise DataError(
                f"{layout.entry('soft', part.soft.stem)} holds other labels ({kind}) than "
                f"{parts[0].soft.stem} ({kinds[0]}); run `ferkd-pipeline stage compress` again"
            )
    return LabelSpec(**kinds[0])


def _build(
    layout: Layout, folder: Path, table: ImageTable, parts: list[_Part], meta: ViewMeta
) -> None:
    sweep(folder)
    num_crops, dtype = meta.num_crops, record_dtype(meta.label)
    is_full = meta.label.kind == "full"
    crop_bytes = dtype.itemsize + (2 * meta.num_classes if is_full else 0) + 2
    _check_room(folder.parent, len(table) * num_crops * crop_bytes)
    with replace_folder(folder) as partial:
        shape = (len(table), num_crops)
        records = _create(partial / "records.npy", dtype, shape)
        dense = (
            _create(partial / "dense.npy", np.dtype("<f2"), (*shape, meta.num_classes))
            if is_full
            else None
        )
        usable = np.zeros(shape, np.bool_)
        for part in parts:
            cut = slice(part.start, part.stop)
            own_dense = None if dense is None else dense[cut]
            usable[cut] = _fill(layout, part, meta, records[cut], own_dense)
        chosen: NDArray[np.bool_] = np.asarray(usable.any(axis=1))
        if not chosen.any():
            raise DataError(
                f"{layout.root} has no image left to train on: every crop was dropped or rejected"
            )
        if not chosen.all():
            _keep_rows(partial, [records, *([dense] if is_full else [])], chosen)
        _save_images(partial, table, chosen, usable)
        described = {**meta.to_json(), "num_images": int(chosen.sum())}
        (partial / "meta.json").write_text(json.dumps(described, indent=1))


def _check_room(folder: Path, num_bytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if num_bytes + _DISK_RESERVE > free:
        raise FerkdError(
            f"the training view needs {num_bytes / 1e9:.1f} GB in {folder}, which has "
            f"{free / 1e9:.1f} GB free; set FERKD_CACHE to a folder on a larger disk"
        )


def _create(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _fill(
    layout: Layout, part: _Part, meta: ViewMeta, records: NDArray[Any], dense: NDArray[Any] | None
) -> NDArray[np.bool_]:
    """Write one shard's records; returns which crops may be drawn, (images, M)."""
    shape = records.shape
    crops = tables.read_table(layout.table("crops", part.crops.stem))
    for place, name in enumerate(("top", "left", "height", "width")):
        records["box"][..., place] = tables.column(crops, name).reshape(shape)
    records["flip"] = tables.column(crops, "flip").reshape(shape)
    usable = (
        _fill_sparse(layout, part, meta, records)
        if dense is None
        else _fill_dense(layout, part, dense)
    )
    return usable & _fill_overlay(layout, part, records)


def _fill_sparse(
    layout: Layout, part: _Part, meta: ViewMeta, records: NDArray[Any]
) -> NDArray[np.bool_]:
    stored = SoftPart(layout, part.soft).sparse()
    shape = (*records.shape, meta.label.num_stored)
    records["class_id"] = np.maximum(stored.class_ids, 0).reshape(shape)
    records["prob"] = stored.probs.reshape(shape)
    if stored.target_prob is not None:
        records["outside_prob"] = stored.target_prob.reshape(records.shape)
    usable: NDArray[np.bool_] = ~np.isnan(records["prob"][..., 0])
    return usable


def _fill_dense(layout: Layout, part: _Part, dense: NDArray[Any]) -> NDArray[np.bool_]:
    usable = np.zeros(dense.shape[:2], np.bool_)
    for start, stop, stored in SoftPart(layout, part.soft).dense_blocks():
        dense[start:stop] = stored
        usable[start:stop] = ~np.isnan(dense[start:stop, :, 0])
    return usable


def _fill_overlay(layout: Layout, part: _Part, records: NDArray[Any]) -> NDArray[np.bool_]:
    if part.overlay is None:
        records["teacher_weight"] = 1.0
        records["target_weight"] = 0.0
        return np.ones(records.shape, np.bool_)
    table = tables.read_table(layout.table(part.overlay.artifact, part.overlay.stem))
    for name in ("teacher_weight", "target_weight"):
        records[name] = tables.column(table, name).reshape(records.shape)
    usable: NDArray[np.bool_] = ~np.isnan(records["teacher_weight"])
    return usable


def _keep_rows(partial: Path, arrays: list[Any], chosen: NDArray[np.bool_]) -> None:
    """Leave out the images that cannot be trained on; seldom any, so copying is fine."""
    for array in arrays:
        path = Path(array.filename)
        smaller = path.with_suffix(".kept.npy")
        shape = (int(chosen.sum()), *array.shape[1:])
        kept = _create(smaller, array.dtype, shape)
        for target, source in enumerate(np.flatnonzero(chosen)):
            kept[target] = array[source]
        kept.flush()
        smaller.replace(path)


def _save_images(
    partial: Path, table: ImageTable, chosen: NDArray[np.bool_], usable: NDArray[np.bool_]
) -> None:
    paths = table.paths[chosen]
    num_kept, kept = keep_lists(usable[chosen])
    ends, path_bytes = pack_paths(paths.tolist())
    columns: dict[str, NDArray[Any]] = {
        "image_ids": np.flatnonzero(chosen).astype(np.int32),
        "targets": table.class_ids[chosen].astype(np.int64),
        "hashes": path_hashes(paths),
        "heights": table.heights[chosen],
        "widths": table.widths[chosen],
        "path_ends": ends,
        "path_bytes": path_bytes,
        "num_kept": num_kept,
        "kept": kept,
    }
    for name, values in columns.items():
        np.save(partial / f"{name}.npy", values, allow_pickle=False)

"""Filling the files of a training view from the shards of a store.

Shapes: N images, M crops, K stored classes, C classes.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import tables
from store.atomic import replace_folder, sweep
from store.entries import Entry
from store.errors import DataError, FerkdError
from store.images import ImageTable
from store.layout import Layout
from store.random import path_hashes
from store.soft_part import SoftPart
from store.view import ViewMeta, keep_lists, pack_paths, record_dtype

_BOX = ("top", "left", "height", "width")
_DISK_RESERVE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ViewPart:
    """Entries of one shard that the view is made of."""

    start: int
    stop: int
    crops: Entry
    soft: Entry
    overlay: Entry | None

    @property
    def num_crops(self) -> int:
        """M, crops an image."""
        return int(self.crops.attribute("num_crops"))

    def digests(self) -> list[str | None]:
        """Rows digests of the three."""
        overlay = None if self.overlay is None else self.overlay.rows_digest
        return [self.crops.rows_digest, self.soft.rows_digest, overlay]


def build(
    layout: Layout, folder: Path, table: ImageTable, parts: list[ViewPart], meta: ViewMeta
) -> None:
    """Write the view as ``folder``, which appears when it is whole; call it as its one writer.

    Raises:
        DataError: a part is damaged or has other rows than its entry says, or no image is left.
        FerkdError: the disk has no room for it.
    """
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
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        # A full disk is an error here; a write to memory that has no block on disk is a SIGBUS.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _fill(
    layout: Layout,
    part: ViewPart,
    meta: ViewMeta,
    records: NDArray[Any],
    dense: NDArray[Any] | None,
) -> NDArray[np.bool_]:
    """Write one shard's records; returns which crops may be drawn, (images, M)."""
    shape = records.shape
    crops = _columns(layout, part, part.crops, (*_BOX, "flip"), meta)
    for place, name in enumerate(_BOX):
        records["box"][..., place] = crops[name].reshape(shape)
    records["flip"] = crops["flip"].reshape(shape)
    usable = (
        _fill_sparse(layout, part, meta, records)
        if dense is None
        else _fill_dense(layout, part, dense)
    )
    return usable & _fill_overlay(layout, part, meta, records)


def _columns(
    layout: Layout, part: ViewPart, entry: Entry, names: tuple[str, ...], meta: ViewMeta
) -> dict[str, NDArray[Any]]:
    """Columns of a table of the part, its rows checked to be M crops of each image in order."""
    path = layout.table(entry.artifact, entry.stem)
    table = tables.read_table(path, ["image_id", *names])
    image_ids = np.arange(part.start, part.stop, dtype=np.int32)
    if not np.array_equal(tables.column(table, "image_id"), np.repeat(image_ids, meta.num_crops)):
        raise DataError(
            f"{path} does not hold {meta.num_crops} crops of each image from {part.start} to "
            f"{part.stop - 1}; run `{entry.remake}` again"
        )
    return {name: tables.column(table, name) for name in names}


def _fill_sparse(
    layout: Layout, part: ViewPart, meta: ViewMeta, records: NDArray[Any]
) -> NDArray[np.bool_]:
    stored = SoftPart(layout, part.soft).sparse()
    if len(stored.probs) != records.size:
        raise DataError(
            f"{layout.table('soft', part.soft.stem)} holds {len(stored.probs)} rows instead of "
            f"{records.size}; run `{part.soft.remake}` again"
        )
    shape = (*records.shape, meta.label.num_stored)
    records["class_id"] = np.maximum(stored.class_ids, 0).reshape(shape)
    records["prob"] = stored.probs.reshape(shape)
    if stored.target_prob is not None:
        records["outside_prob"] = stored.target_prob.reshape(records.shape)
    usable: NDArray[np.bool_] = ~np.isnan(records["prob"][..., 0])
    return usable


def _fill_dense(layout: Layout, part: ViewPart, dense: NDArray[Any]) -> NDArray[np.bool_]:
    usable = np.zeros(dense.shape[:2], np.bool_)
    for start, stop, stored in SoftPart(layout, part.soft).dense_blocks():
        if stored.shape != dense[start:stop].shape:
            raise DataError(
                f"{layout.arrays('soft', part.soft.stem)} holds labels of shape "
                f"{stored.shape} instead of {dense[start:stop].shape}; "
                f"run `{part.soft.remake}` again"
            )
        dense[start:stop] = stored
        usable[start:stop] = ~np.isnan(dense[start:stop, :, 0])
    return usable


def _fill_overlay(
    layout: Layout, part: ViewPart, meta: ViewMeta, records: NDArray[Any]
) -> NDArray[np.bool_]:
    if part.overlay is None:
        records["teacher_weight"] = 1.0
        records["target_weight"] = 0.0
        return np.ones(records.shape, np.bool_)
    weights = _columns(layout, part, part.overlay, ("teacher_weight", "target_weight"), meta)
    for name, values in weights.items():
        records[name] = values.reshape(records.shape)
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

"""Filling the files of a training view from the shards of a store.

Shapes: N images of the store, U of them usable, M crops, K stored classes, C classes.
"""

import json
import os
import shutil
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import recorded
from store.atomic import replace_folder, sweep
from store.errors import DataError, FerkdError, RetryError
from store.images import ImageTable
from store.layout import Layout
from store.random import path_hashes
from store.scan import in_order
from store.units import readable_bytes
from store.view.guard import block_digests
from store.view.meta import ViewMeta, digests_of, keep_dtype, map_file
from store.view.record import TooNarrowError, narrowest, record_dtype
from store.view.rows import RowFiller, ViewPart, unpack_pairs

_DISK_RESERVE = 64 * 2**20
_IMAGES_A_CHUNK = 1 << 13
_ZEROS = 1 << 20


def build(
    layout: Layout, folder: Path, table: ImageTable, parts: list[ViewPart], meta: ViewMeta
) -> None:
    """Write the view as ``folder``, which appears when it is whole; call it as its one writer.

    The narrowest record is tried first; where a value does not fit, which the first shards show
    as a rule, all begins again with a wider one. So no shard is read twice to learn the widths.

    Raises:
        DataError: a part is damaged or has other rows than its entry says, or no image is left.
        FerkdError: the disk has no room for it.
        RetryError: a part was published again since the view was planned.
    """
    sweep(folder)
    record = narrowest(meta.calibration is not None, parts[0].num_ops, parts[0].has_mix)
    while True:
        try:
            _build(layout, folder, table, parts, replace(meta, record=record))
        except TooNarrowError as error:
            record = error.wider
        except (DataError, RetryError):
            _refuse_changes(layout, parts)  # then what was found is no damage
            raise
        else:
            return


def _build(
    layout: Layout, folder: Path, table: ImageTable, parts: list[ViewPart], meta: ViewMeta
) -> None:
    num_images, num_crops = len(table), meta.num_crops
    dtype = record_dtype(meta.label, meta.record)
    is_dense = meta.label.is_dense
    crop_bytes = dtype.itemsize + (2 * meta.num_classes if is_dense else 0)
    crop_bytes += 0 if meta.calibration is None else keep_dtype(num_crops).itemsize
    _check_room(folder.parent, num_images * num_crops * crop_bytes)
    with replace_folder(folder) as partial:
        rows = num_images * num_crops
        records = _create(partial / "records.npy", dtype, (rows,))
        dense = None
        if is_dense:
            dense = _create(partial / "dense.npy", np.dtype("<f2"), (rows, meta.num_classes))
        filler = RowFiller(layout, meta.label, num_crops, meta.record, num_images)

        def fill(part: ViewPart) -> NDArray[np.uint8]:
            cut = slice(part.start * num_crops, part.stop * num_crops)
            own_dense = None if dense is None else dense[cut]
            usable = filler.fill(part, records[cut], own_dense)
            return np.packbits(usable.reshape(-1, num_crops), axis=1)

        usable = np.concatenate(list(in_order(fill, parts)))  # a bit a crop: 32 MB of 256 million
        num_kept = _count_kept(usable, num_crops)
        chosen = np.flatnonzero(num_kept)
        if not len(chosen):
            raise DataError(
                f"{layout.root} has no image left to train on: every crop was dropped or rejected"
            )
        has_losses = bool((num_kept[chosen] < num_crops).any())
        if has_losses:
            _save_kept(partial / "kept.npy", usable, num_kept, num_crops)
        _save_images(partial, table, chosen, num_kept)
        if meta.record.has_mix:
            _save_stored(partial, table)
        described = replace(
            meta, num_images=len(chosen), num_stored=num_images, has_losses=has_losses
        )
        values = {
            "prob_values": filler.probs.values,
            "weight_values": unpack_pairs(filler.weights.values),
        }
        for name in values.keys() & described.names:
            _save(partial, name, values[name])
        _save(partial, "records_digests", block_digests(records))
        if dense is not None:
            _save(partial, "dense_digests", block_digests(dense))
        written = {name: map_file(partial / f"{name}.npy") for name in described.names}
        described = replace(described, digests=digests_of(written))
        (partial / "meta.json").write_text(json.dumps(described.to_json(), indent=1))
        _refuse_changes(layout, parts)


def _refuse_changes(layout: Layout, parts: list[ViewPart]) -> None:
    """Stop where a part is no longer what the view is named after."""
    if any(recorded.has_changed(layout, entry) for part in parts for entry in part.entries):
        raise RetryError("labels changed while the view was built; run again")


def _check_room(folder: Path, num_bytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if num_bytes + _DISK_RESERVE > free:
        raise FerkdError(
            f"the training view needs {readable_bytes(num_bytes)} in {folder}, and as many as "
            f"{readable_bytes(_DISK_RESERVE)} are to stay free, but it has only "
            f"{readable_bytes(free)}; free some space, or set FERKD_CACHE to a folder on a larger "
            "disk"
        )


def _create(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # A full disk is an error here; a write to memory that has no block on disk is a SIGBUS.
    with path.open("r+b", buffering=0) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        else:  # macOS
            _write_zeros(file, array.offset, path.stat().st_size)
    return array


def _write_zeros(file: FileIO, start: int, stop: int) -> None:
    zeros, place = bytes(_ZEROS), file.seek(start)
    while place < stop:
        place += file.write(zeros[: stop - place])


def _count_kept(usable: NDArray[np.uint8], num_crops: int) -> NDArray[np.int32]:
    """Crops (N,) that each image may give, from (N, bytes) of a bit a crop."""
    counts = np.zeros(len(usable), np.int32)
    for column in range(usable.shape[1]):
        counts += np.bitwise_count(usable[:, column])
    return np.minimum(counts, num_crops)


def _save_kept(
    path: Path, usable: NDArray[np.uint8], num_kept: NDArray[np.int32], num_crops: int
) -> None:
    """Write (N, M): the crops to draw from in their order, then the others in theirs."""
    kept = _create(path, keep_dtype(num_crops), (len(usable), num_crops))
    numbers = np.arange(num_crops, dtype=kept.dtype)
    for start in range(0, len(usable), _IMAGES_A_CHUNK):
        cut = slice(start, start + _IMAGES_A_CHUNK)
        bits = np.unpackbits(usable[cut], axis=1, count=num_crops).view(np.bool_)
        comes_first = numbers < num_kept[cut, None]
        everyone = np.broadcast_to(numbers, bits.shape)
        own = np.empty(bits.shape, kept.dtype)
        own[comes_first] = everyone[bits]
        own[~comes_first] = everyone[~bits]
        kept[cut] = own


def _save_images(
    partial: Path, table: ImageTable, chosen: NDArray[np.intp], num_kept: NDArray[np.int32]
) -> None:
    ends, path_bytes = table.path_bytes(chosen)
    columns: dict[str, NDArray[Any]] = {
        "image_ids": chosen.astype(np.int32),
        "targets": table.class_ids[chosen].astype(np.int64),
        "hashes": path_hashes(table.paths[chosen]),
        "heights": table.heights[chosen],
        "widths": table.widths[chosen],
        "path_ends": ends,
        "path_bytes": path_bytes,
        "num_kept": num_kept[chosen],
        "content_hashes": table.content_hash_words(chosen),
    }
    for name, values in columns.items():
        _save(partial, name, values)


def _save_stored(partial: Path, table: ImageTable) -> None:
    """All images: one that cannot be trained on may be what a crop is mixed with."""
    everyone = np.arange(len(table))
    ends, path_bytes = table.path_bytes(everyone)
    columns: dict[str, NDArray[Any]] = {
        "stored_targets": table.class_ids.astype(np.int32),
        "stored_heights": table.heights,
        "stored_widths": table.widths,
        "stored_path_ends": ends,
        "stored_path_bytes": path_bytes,
        "stored_content_hashes": table.content_hash_words(everyone),
    }
    for name, values in columns.items():
        _save(partial, name, values)


def _save(folder: Path, name: str, values: NDArray[Any]) -> None:
    np.save(folder / f"{name}.npy", values, allow_pickle=False)

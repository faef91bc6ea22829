"""The training view: labels of a whole store, memory-mapped, gathered a batch at a time.

Shapes: N usable images, M crops, K stored classes, E entries, C classes, B images of a batch, m
crops an image of a batch.

Training never decodes Parquet per step. The view is built once from crops, labels and (where
asked for) a calibration, under a name that is the digest of all of them and of where the images
lie, and shared by every worker and rank of a host. Images that could not be labelled are not in it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from store.batch import LabelBatch
from store.codecs import LabelSpec, SparseLabels, decode_full, to_entries
from store.errors import DataError
from store.overlay import combine, combine_dense
from store.random import draw_kept

VIEW_VERSION = 1
"""Raised when a view built earlier cannot be read; views are rebuilt, never migrated."""

_ARRAYS = (
    "image_ids",
    "targets",
    "hashes",
    "heights",
    "widths",
    "path_ends",
    "path_bytes",
    "num_kept",
    "kept",
    "records",
)


@dataclass(frozen=True, slots=True)
class ViewMeta:
    """What a view says of itself in ``meta.json``."""

    digest: str
    """Of everything the labels were made of; the same wherever store and images lie."""
    images_folder: str
    """Absolute; with the digest it names the folder of the view."""
    num_images: int
    num_crops: int
    num_classes: int
    label: LabelSpec
    calibration: str | None
    version: int = VIEW_VERSION

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """From what `to_json` gave; raises TypeError or KeyError for anything else."""
        return cls(**{**raw, "label": LabelSpec(**raw["label"])})


def record_dtype(label: LabelSpec) -> np.dtype[Any]:
    """One crop of the view: fixed stride, little endian."""
    ids = "<u2" if label.num_classes <= 65535 else "<i4"
    stored = 0 if label.kind == "full" else label.num_stored
    fields: list[tuple[Any, ...]] = [
        ("box", "<i4", (4,)),
        ("teacher_weight", "<f4"),
        ("target_weight", "<f4"),
        ("prob", "<f4", (stored,)),
        *([("outside_prob", "<f4")] if label.include_target else []),
        ("class_id", ids, (stored,)),
        ("flip", "?"),
    ]
    return np.dtype(fields)


class TrainingView:
    """Labels of a store for training; picklable, a copy maps the same files.

    ``rows`` index the usable images, 0 to num_images - 1; ``image_ids`` gives their ids.
    """

    def __init__(self, folder: Path) -> None:
        """Map the view at ``folder``.

        Raises:
            DataError: it is incomplete or of another version.
        """
        self.folder = folder
        try:
            self.meta = ViewMeta.from_json(json.loads((folder / "meta.json").read_bytes()))
            is_full = self.meta.label.kind == "full"
            names = (*_ARRAYS, "dense") if is_full else _ARRAYS
            arrays = {name: _map(folder / f"{name}.npy") for name in names}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{folder} is not a whole training view ({error}); delete it: it is made again"
            ) from None
        if self.meta.version != VIEW_VERSION or not _fits(self.meta, arrays):
            raise DataError(
                f"{folder} is a training view of another version or damaged; delete it: it is made "
                "again"
            )
        self.image_ids: NDArray[np.int32] = arrays["image_ids"]
        self.targets: NDArray[np.int64] = arrays["targets"]
        self.hashes: NDArray[np.uint64] = arrays["hashes"]
        self.heights: NDArray[np.int32] = arrays["heights"]
        self.widths: NDArray[np.int32] = arrays["widths"]
        self.num_kept: NDArray[np.int32] = arrays["num_kept"]
        self._kept = arrays["kept"]
        self._path_ends = arrays["path_ends"]
        self._path_bytes = arrays["path_bytes"]
        self._records = arrays["records"]
        self._dense = arrays.get("dense")

    def __reduce__(self) -> tuple[type["TrainingView"], tuple[Path]]:
        """Pickle as the folder, so that workers map the files themselves."""
        return TrainingView, (self.folder,)

    @property
    def num_images(self) -> int:
        """N, images that can be trained on."""
        return len(self.image_ids)

    @property
    def num_crops(self) -> int:
        """M."""
        return self.meta.num_crops

    @property
    def num_classes(self) -> int:
        """C."""
        return self.meta.num_classes

    def paths(self, rows: NDArray[np.integer]) -> list[str]:
        """Image files of ``rows``, below the folder of images that the view was opened for."""
        return [f"{self.meta.images_folder}/{self._path(int(row))}" for row in rows]

    def _path(self, row: int) -> str:
        start = int(self._path_ends[row - 1]) if row else 0
        return self._path_bytes[start : int(self._path_ends[row])].tobytes().decode()

    def draw(
        self, rows: NDArray[np.integer], pass_number: int, m: int, seed: int
    ) -> NDArray[np.int64]:
        """Crops (B, m) that images ``rows`` (B,) give in a pass over the data.

        Every kept crop comes once before one comes again: the order is an endless sequence of
        permutations, seeded by (seed, image, cycle). Dropped crops never come.
        """
        position = np.full(len(rows), pass_number * m, dtype=np.int64)
        index = draw_kept(seed, self.hashes[rows], self.num_kept[rows], position, m)
        drawn: NDArray[np.int64] = self._kept[np.asarray(rows)[:, None], index].astype(np.int64)
        return drawn

    def gather(self, rows: NDArray[np.integer], crops: NDArray[np.integer]) -> LabelBatch:
        """Boxes and calibrated labels of ``crops`` (B, m) of images ``rows`` (B,)."""
        rows = np.asarray(rows, dtype=np.int64)
        records = self._records[rows[:, None], crops]
        targets = np.asarray(self.targets[rows])
        if self._dense is not None:
            return self._dense_batch(records, targets, self._dense[rows[:, None], crops])
        flat = records.reshape(-1)
        stored = SparseLabels(
            flat["class_id"].astype(np.int32),
            np.ascontiguousarray(flat["prob"]),
            flat["outside_prob"] if self.meta.label.include_target else None,
        )
        target = np.repeat(targets, records.shape[1])
        class_ids, weights, tail = combine(
            *to_entries(self.meta.label, stored, target),
            target,
            flat["teacher_weight"],
            flat["target_weight"],
            self.num_classes,
        )
        shape = records.shape
        return LabelBatch(
            boxes=np.ascontiguousarray(records["box"]),
            flips=np.ascontiguousarray(records["flip"]),
            class_ids=class_ids.astype(np.int64).reshape(*shape, -1),
            weights=weights.reshape(*shape, -1),
            tail=tail.reshape(shape),
            targets=targets,
        )

    def _dense_batch(
        self, records: NDArray[Any], targets: NDArray[np.int64], stored: NDArray[np.float16]
    ) -> LabelBatch:
        num_rows = records.size
        label = combine_dense(
            decode_full(stored.reshape(num_rows, -1)),
            np.repeat(targets, records.shape[1]),
            records["teacher_weight"].reshape(-1),
            records["target_weight"].reshape(-1),
        )
        shape = records.shape
        return LabelBatch(
            boxes=np.ascontiguousarray(records["box"]),
            flips=np.ascontiguousarray(records["flip"]),
            class_ids=np.zeros((*shape, 0), np.int64),
            weights=np.zeros((*shape, 0), np.float32),
            tail=np.zeros(shape, np.float32),
            targets=targets,
            dense=label.astype(np.float32).reshape(*shape, -1),
        )


def _fits(meta: ViewMeta, arrays: dict[str, NDArray[Any]]) -> bool:
    """Whether the arrays have the shapes and types that `meta` promises."""
    shape = (meta.num_images, meta.num_crops)
    records = arrays["records"]
    return (
        all(len(arrays[name]) == meta.num_images for name in ("image_ids", "targets", "path_ends"))
        and records.dtype == record_dtype(meta.label)
        and records.shape == arrays["kept"].shape == shape
        and ("dense" not in arrays or arrays["dense"].shape == (*shape, meta.num_classes))
    )


def _map(path: Path) -> NDArray[Any]:
    values: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    return values


def keep_lists(usable: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
    """Number of crops to draw from (N,), and their numbers first in (N, M), from ``usable``."""
    order = np.argsort(~usable, axis=1, kind="stable").astype(np.uint16)
    return usable.sum(axis=1).astype(np.int32), order


def pack_paths(paths: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where each path ends in the bytes of all of them, and these bytes."""
    encoded = [path.encode() for path in paths]
    ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
    return ends, np.frombuffer(b"".join(encoded), dtype=np.uint8)

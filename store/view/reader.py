"""The training view: labels of a whole store, memory-mapped, gathered a batch at a time.

Shapes: N images of the store, U of them usable, M crops, K stored classes, E entries, C classes, B
images of a batch, m crops an image of a batch, R = B m.

Training never decodes Parquet per step. The view is built once from crops, labels and (where
asked for) a calibration, under a name that is the digest of all of them and of where the images
lie, and shared by every worker and rank of a host. Images that could not be labelled are not in it.
Nothing of it is copied into private memory but the values that codes stand for, 0.8 MB at most.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import json_text
from store.batch import FetchedCrops, LabelBatch
from store.dense_codecs import decode_full, decode_logits
from store.errors import DataError, says_nothing_of_file
from store.overlay import combine_dense
from store.random import draw_kept
from store.view.fields import boxes_of, columns_of, mix_of, ops_of
from store.view.guard import Guard
from store.view.images import StoredImages, paths_of
from store.view.labels import calibrate, entries
from store.view.meta import GUARDED, VIEW_VERSION, ViewMeta, digests_of, map_file

__all__ = ["VIEW_VERSION", "FetchedCrops", "StoredImages", "TrainingView", "ViewMeta"]

_DENSE_ROWS = 64
"""Crops of a dense kind that are decoded at once, so that they stay in the cache."""


class TrainingView:
    """Labels of a store for training; picklable, a copy maps the same files.

    ``rows`` index the usable images, 0 to num_images - 1; ``image_ids`` gives their ids.
    """

    def __init__(self, folder: Path) -> None:
        """Map the view at ``folder``.

        Raises:
            DataError: it is incomplete, damaged or of another version.
        """
        self.folder = folder
        try:
            raw = json_text.parse((folder / "meta.json").read_bytes())
            is_ours = raw["version"] == VIEW_VERSION
            if is_ours:
                self.meta = ViewMeta.from_json(raw)
                arrays = {name: map_file(folder / f"{name}.npy") for name in self.meta.names}
        except (OSError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, OSError) and says_nothing_of_file(error):
                raise
            raise DataError(
                f"{folder} is not a whole training view ({error}); delete it: it is made again"
            ) from None
        if not is_ours or not self.meta.fits(arrays) or digests_of(arrays) != self.meta.digests:
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
        self.content_hashes: NDArray[np.uint64] = arrays["content_hashes"]
        """(U, 2) xxh3-128 of the image files, high word first."""
        kept = arrays.get("kept")
        self._kept = None if kept is None else kept.reshape(-1)
        self._path_ends = arrays["path_ends"]
        self._path_bytes = arrays["path_bytes"].data
        self.stored = StoredImages.of(self.meta, arrays) if self.meta.record.has_mix else None
        """All images of the store, where crops are mixed with them."""
        self._records = arrays["records"]
        self._guards = [
            Guard(folder / f"{name}.npy", arrays[name], arrays[f"{name}_digests"])
            for name in GUARDED
            if name in arrays
        ]
        self._dense = arrays.get("dense")
        # Copied: a few thousand values, which every batch reads.
        self._prob_values = np.array(arrays.get("prob_values", ()), dtype=np.float32)
        self._wide_prob_values = self._prob_values.astype(np.float64)
        weight_values = np.array(arrays.get("weight_values", ((0, 0),)), dtype=np.float64)
        self._teacher_weights, self._target_weights = weight_values.T.copy()

    def __reduce__(self) -> tuple[type["TrainingView"], tuple[Path]]:
        """Pickle as the folder, so that workers map the files themselves."""
        return TrainingView, (self.folder,)

    @property
    def num_images(self) -> int:
        """U, images that can be trained on."""
        return len(self.image_ids)

    @property
    def num_crops(self) -> int:
        """M."""
        return self.meta.num_crops

    @property
    def num_classes(self) -> int:
        """C; of kind `logits` the outputs of the projection head."""
        return self.meta.num_classes

    def paths(self, rows: NDArray[np.integer]) -> list[str]:
        """Image files of ``rows``, below the folder of images that the view was opened for."""
        return paths_of(self.meta.images_folder, self._path_ends, self._path_bytes, rows)

    def draw(self, rows: NDArray[np.integer], first: int, m: int, seed: int) -> NDArray[np.int64]:
        """Crops (B, m) that images ``rows`` (B,) give after having given ``first`` each.

        Every kept crop comes once before one comes again: the order is an endless sequence of
        permutations, seeded by (seed, image, cycle). Dropped crops never come.
        """
        rows = np.asarray(rows)
        position = np.full(len(rows), first, dtype=np.int64)
        index = draw_kept(seed, self.hashes.take(rows), self.num_kept.take(rows), position, m)
        if self._kept is None:
            return index
        return self._kept.take(self._places(rows, index)).astype(np.int64)

    def fetch(self, rows: NDArray[np.integer], crops: NDArray[np.integer]) -> FetchedCrops:
        """What is stored of ``crops`` (B, m) of images ``rows`` (B,)."""
        places = self._places(rows, crops)
        shape, flat = places.shape, places.reshape(-1)
        records = self._take(flat)
        ops, mix = ops_of(records, shape), mix_of(records, shape)
        if self._dense is not None:
            ids, probs = np.zeros((*shape, 0), np.int32), np.zeros((*shape, 0), np.float32)
            dense = self._dense.take(flat, axis=0).reshape(*shape, -1)
            boxes = boxes_of(records, shape)
            return FetchedCrops(*boxes, ids, probs, dense=dense, ops=ops, mix=mix)
        outside = None
        if self.meta.label.include_target:
            outside = self._probs(records["outside_prob"]).reshape(shape)
        return FetchedCrops(
            *boxes_of(records, shape),
            columns_of(records["class_id"], np.int32).reshape(*shape, -1),
            self._probs(records["prob"]).reshape(*shape, -1),
            outside,
            ops=ops,
            mix=mix,
        )

    def gather(self, rows: NDArray[np.integer], crops: NDArray[np.integer]) -> LabelBatch:
        """Boxes and calibrated labels of ``crops`` (B, m) of images ``rows`` (B,).

        Labels of kind `logits` are the stored logits, as float32 in ``dense``.
        """
        places = self._places(rows, crops)
        shape, flat = places.shape, places.reshape(-1)
        records = self._take(flat)
        targets = self.targets.take(rows)
        boxes, flips = boxes_of(records, shape)
        ops, mix = ops_of(records, shape), mix_of(records, shape)
        mixed = None if self.stored is None else self.stored.targets_of(mix, targets)
        target = np.repeat(targets, shape[1])
        if self._dense is not None:
            dense = self._decoded(flat, records, target)
            return LabelBatch(
                boxes=boxes,
                flips=flips,
                class_ids=np.zeros((*shape, 0), np.int64),
                weights=np.zeros((*shape, 0), np.float32),
                tail=np.zeros(shape, np.float32),
                targets=targets,
                dense=dense.reshape(*shape, -1),
                ops=ops,
                mix=mix,
                partner_targets=mixed,
            )
        class_ids, weights, tail = self._entries(records, target)
        return LabelBatch(
            boxes=boxes,
            flips=flips,
            class_ids=class_ids.reshape(*shape, -1),
            weights=weights.reshape(*shape, -1),
            tail=tail.reshape(shape),
            targets=targets,
            ops=ops,
            mix=mix,
            partner_targets=mixed,
        )

    def _take(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Records (R,) at places, after their bytes and those of dense labels were compared.

        Raises:
            DataError: they are not what was written.
        """
        for guard in self._guards:
            guard.check(places)
        return self._records.take(places)

    def _places(self, rows: NDArray[np.integer], crops: NDArray[np.integer]) -> NDArray[np.int64]:
        """Where the records (B, m) lie: at the image's id, for images left out have theirs, too."""
        first = self.image_ids.take(rows).astype(np.int64) * self.num_crops
        return first[:, None] + crops

    def _probs(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        if stored.dtype == np.float32:
            return np.ascontiguousarray(stored)
        return self._prob_values.take(stored)

    def _wide_probs(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        if stored.dtype == np.float32:
            return stored.astype(np.float64)
        return self._wide_prob_values.take(stored)

    def _shares(self, records: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """a and b (R,) of the calibration."""
        stored = records["weights"]
        if stored.dtype == np.float32:
            return stored[:, 0].astype(np.float64), stored[:, 1].astype(np.float64)
        return self._teacher_weights.take(stored), self._target_weights.take(stored)

    def _entries(
        self, records: NDArray[Any], target: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Class ids (R, E), weights (R, E) and tail (R,) after calibration."""
        label = self.meta.label
        has_outside, is_calibrated = label.include_target, self.meta.calibration is not None
        outside = self._wide_probs(records["outside_prob"]) if has_outside else None
        weights, tail = entries(label, self._wide_probs(records["prob"].T), outside)
        if is_calibrated:
            calibrated = np.empty((len(weights) + 1, len(tail)), np.float32)
            tail = calibrate(weights, tail, self._shares(records), self.num_classes, calibrated)
            weights = calibrated
        class_ids = np.empty((len(tail), len(weights)), np.int64)
        for place in range(label.num_stored):
            class_ids[:, place] = records["class_id"][:, place]
        class_ids[:, label.num_stored :] = target[:, None]
        return class_ids, np.ascontiguousarray(weights.T), tail

    def _decoded(
        self, places: NDArray[np.int64], records: NDArray[Any], target: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Labels (R, C) of dense kinds after calibration, some rows at a time."""
        assert self._dense is not None
        labels = np.empty((len(places), self.num_classes), np.float32)
        for start in range(0, len(places), _DENSE_ROWS):
            cut = slice(start, start + _DENSE_ROWS)
            stored = self._dense.take(places[cut], axis=0)
            if self.meta.label.kind == "logits":
                labels[cut] = decode_logits(stored)
            elif self.meta.calibration is None:
                labels[cut] = decode_full(stored)
            else:
                shares = self._shares(records[cut])
                labels[cut] = combine_dense(decode_full(stored), target[cut], *shares)
        return labels

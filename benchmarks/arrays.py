"""Labels as plain arrays: what every format of a comparison is given, and what it gives back.

Shapes: N images, M crops an image, K classes kept, C classes, B images of a batch, m crops an image
of a batch, R ranked classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stages.compress.core import Predictions
from store.array_spec import class_dtype
from store.batch import FetchedCrops
from store.digest import rows_digest
from store.images import ImageTable

_MIN_CLASSES = 1000
"""C of labels that do not say it: ImageNet's, as their ids may miss the last classes."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Boxes and soft labels of a whole data set in memory."""

    table: ImageTable
    """N rows."""
    boxes: NDArray[np.int32]
    """(N, M, 4) top, left, height, width in pixels."""
    flips: NDArray[np.bool_]
    """(N, M)"""
    class_ids: NDArray[np.int32]
    """(N, M, K) most probable first."""
    probs: NDArray[np.float32]
    """(N, M, K) falling."""

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.boxes)

    @property
    def num_crops(self) -> int:
        """M."""
        return int(self.boxes.shape[1])

    @property
    def num_rows(self) -> int:
        """N * M."""
        return self.num_images * self.num_crops

    @property
    def k(self) -> int:
        """K."""
        return int(self.class_ids.shape[2])

    def first(self, k: int) -> "Labels":
        """The most probable ``k`` classes of each crop, fewer where there are fewer."""
        kept = self.class_ids[..., :k], self.probs[..., :k]
        return Labels(self.table, self.boxes, self.flips, *kept)


class Scanner(Protocol):
    """Labels of one format, opened, read from the first to the last."""

    def scan(self) -> Iterator[FetchedCrops]:
        """All labels in order, some images at a time."""


class Reader(Scanner, Protocol):
    """Labels of one format, opened, read in any order."""

    def fetch(self, image_ids: NDArray[np.int64], crops: NDArray[np.int64]) -> FetchedCrops:
        """The labels of ``crops`` (B, m) of images ``image_ids`` (B,)."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Predictions of a shard, as the stage infer would keep them with ``keep: topk``."""

    topk_class: NDArray[np.unsignedinteger]
    """(N, M, R)"""
    topk_logp: NDArray[np.float16]
    """(N, M, R)"""
    target_logp: NDArray[np.float16]
    """(N, M)"""
    logsumexp: NDArray[np.float32]
    """(N, M, 1) at temperature 1."""

    @property
    def rows_digest(self) -> str:
        """Digest of all four."""
        return rows_digest({name: getattr(self, name) for name in self.__dataclass_fields__})

    def flat(self, start: int, stop: int) -> Predictions:
        """Predictions of the crops of images ``start`` to ``stop``, as compress reads them."""
        cut = slice(start, stop)
        num_ranked = self.topk_class.shape[2]
        return Predictions(
            topk_class=self.topk_class[cut].reshape(-1, num_ranked).astype(np.int32),
            topk_logp=self.topk_logp[cut].reshape(-1, num_ranked),
            logp=None,
            target_logp=self.target_logp[cut].reshape(-1),
            logsumexp=self.logsumexp[cut].reshape(-1, 1),
            temperatures=(1.0,),
        )


def load(path: Path) -> Labels:
    """Read labels that somebody else made.

    The file holds arrays box (N, M, 4) as top, left, height, width; flip (N, M); ids (N, M, K);
    p (N, M, K); gt (N,). Classes need not be ranked. An image is as large as its boxes reach.
    """
    with np.load(path, allow_pickle=False) as file:
        boxes = file["box"].astype(np.int32)
        order = np.argsort(-file["p"], axis=2, kind="stable")
        ids = np.take_along_axis(file["ids"].astype(np.int32), order, axis=2)
        probs = np.take_along_axis(file["p"].astype(np.float32), order, axis=2)
        gt, flips = file["gt"].astype(np.int32), file["flip"].astype(np.bool_)
    num_classes = max(_MIN_CLASSES, int(ids.max()) + 1, int(gt.max()) + 1)
    reach = np.maximum(boxes[..., :2] + boxes[..., 2:], 1).max(axis=1)
    table = ImageTable(
        paths=np.array([f"given/{row:09d}.JPEG" for row in range(len(gt))], dtype=object),
        class_ids=gt,
        heights=reach[:, 0].astype(np.int32),
        widths=reach[:, 1].astype(np.int32),
        content_hashes=np.array([f"{row:032x}" for row in range(len(gt))], dtype=object),
        class_names=tuple(f"class {c}" for c in range(num_classes)),
    )
    return Labels(table, boxes, flips, ids, probs)


def ranked_of(labels: Labels) -> Ranked:
    """Predictions whose top K these labels are; a target outside them has an even share."""
    probs = np.maximum(labels.probs.astype(np.float64), np.finfo(np.float32).tiny)
    rest = np.maximum(1.0 - probs.sum(axis=2), np.finfo(np.float32).tiny)
    even = rest / max(1, labels.table.num_classes - labels.k)
    at = labels.class_ids == labels.table.class_ids[:, None, None]
    at_target = np.where(at.any(axis=2), np.where(at, probs, 0.0).sum(axis=2), even)
    return Ranked(
        labels.class_ids.astype(class_dtype(labels.table.num_classes)),
        np.log(probs).astype(np.float16),
        np.log(at_target).astype(np.float16),
        np.zeros((*labels.flips.shape, 1), np.float32),
    )

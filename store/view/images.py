"""The images of a training view: their files, and of mixed crops all that they are mixed with.

Shapes: N images of the store, B images of a batch, m crops an image, J images asked for.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from store.batch import RecordedMix
from store.view.meta import ViewMeta


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files as they were when they were indexed."""

    paths: list[str]
    """J files."""
    heights: NDArray[np.int32]
    """(J,) pixels."""
    widths: NDArray[np.int32]
    """(J,)"""
    content_hashes: NDArray[np.uint64]
    """(J, 2) xxh3-128 of the files, high word first."""


@dataclass(frozen=True, slots=True)
class StoredImages:
    """All images of a store by id, memory-mapped: those too that no crop can be drawn of."""

    folder: str
    targets: NDArray[np.int32]
    """(N,) the ground-truth class."""
    heights: NDArray[np.int32]
    """(N,) pixels."""
    widths: NDArray[np.int32]
    """(N,)"""
    content_hashes: NDArray[np.uint64]
    """(N, 2)"""
    path_ends: NDArray[np.int64]
    """(N,) where each path ends in ``path_bytes``."""
    path_bytes: NDArray[np.uint8]

    @classmethod
    def of(cls, meta: ViewMeta, arrays: dict[str, NDArray[Any]]) -> Self:
        """From the files of a view."""
        names = ("targets", "heights", "widths", "content_hashes", "path_ends", "path_bytes")
        return cls(meta.images_folder, *(arrays[f"stored_{name}"] for name in names))

    def files(self, image_ids: NDArray[np.integer]) -> ImageFiles:
        """Files of images (J,)."""
        return ImageFiles(
            paths_of(self.folder, self.path_ends, self.path_bytes.data, image_ids),
            self.heights.take(image_ids),
            self.widths.take(image_ids),
            self.content_hashes.take(image_ids, axis=0),
        )

    def targets_of(
        self, mix: RecordedMix | None, targets: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        """Classes (B, m) of what is mixed into crops of ``targets`` (B,); else the crop's own."""
        if mix is None:
            return None
        ids = mix.partner_ids
        found = self.targets.take(np.maximum(ids, 0)).astype(np.int64)
        return np.where(ids >= 0, found, targets[:, None])


def paths_of(
    folder: str,
    ends: NDArray[np.int64],
    text: memoryview,
    rows: NDArray[np.integer],
) -> list[str]:
    """Paths below a folder, of ``rows``; ``ends`` say where each ends in the bytes of all."""
    rows = np.asarray(rows)
    starts = np.where(rows > 0, ends.take(np.maximum(rows - 1, 0)), 0)
    pairs = zip(starts.tolist(), ends.take(rows).tolist(), strict=True)
    return [f"{folder}/{str(text[start:end], 'utf-8')}" for start, end in pairs]

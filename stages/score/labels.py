"""The teacher's mean label of every image, from the stored labels of its crops.

Shapes: N images, M crops an image, B images of a batch, C classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.score import core
from store import entries, mixing
from store.codecs import to_entries
from store.dense_codecs import decode_full
from store.entries import Entry
from store.errors import ParamsError
from store.images import shard_bounds
from store.layout import Layout
from store.soft_part import SoftPart


class TeacherLabels:
    """Mean labels, a shard at a time; ask for images in their order."""

    def __init__(self, layout: Layout, parts: Sequence[Entry], num_images: int) -> None:
        """Read nothing yet; ``parts`` are the labels of all shards, in order.

        Raises:
            ParamsError: these labels are no probabilities, or of crops that hold other images too.
        """
        self._parts = [SoftPart(layout, entry) for entry in parts]
        self._bounds = [shard_bounds(num_images, len(parts), shard) for shard in range(len(parts))]
        self._shard = -1
        self._means: NDArray[np.float64] = np.empty((0, 0))
        spec = self._parts[0].spec
        if spec.kind == "logits":
            raise ParamsError(
                "compress.kind is logits, allowed with the estimator disagreement: a kind of "
                "probabilities"
            )
        crops = entries.find_entry(layout, "crops", parts[0].stem)
        if crops is not None and mixing.has_mix(crops):
            raise ParamsError(
                "the store's crops are mixed with other images (sample.mix), allowed with the "
                "estimator disagreement: a store without, whose labels say what an image shows"
            )
        self.temperature = spec.temperature
        """What the teacher's logits were divided by."""

    def of_images(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return mean labels (B, C) of images in rising order; NaN where the teacher had none."""
        found = []
        for shard, (start, stop) in enumerate(self._bounds):
            own = rows[(rows >= start) & (rows < stop)]
            if len(own):
                found.append(self._of_shard(shard)[own - start])
        return np.concatenate(found)

    def _of_shard(self, shard: int) -> NDArray[np.float64]:
        if shard != self._shard:
            self._means, self._shard = _means(self._parts[shard]), shard
        return self._means


def _means(part: SoftPart) -> NDArray[np.float64]:
    num_classes = part.spec.num_classes
    if part.spec.is_dense:
        blocks = [
            decode_full(stored.reshape(-1, num_classes))
            .reshape(stop - start, part.num_crops, num_classes)
            .mean(axis=1)
            for start, stop, stored in part.dense_blocks()
        ]
        return np.concatenate(blocks)
    entries = to_entries(part.spec, part.sparse(), part.scalars().targets)
    return core.mean_labels(*entries, part.num_crops, num_classes)

"""Labels of one batch as tensors, crop after crop.

Shapes: B crops (images x crops an image), E entries a crop, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from store.batch import LabelBatch


@dataclass(frozen=True, slots=True)
class LabelTensors:
    """Sparse labels: label = tail + sum_e weights_e * onehot(class_ids_e); see `LabelBatch`.

    ``dense`` replaces the three for kind `full`: then E = 0 and tail = 0.
    """

    class_ids: torch.Tensor
    """(B, E) int64; a class that stands twice gets the sum of its weights."""
    weights: torch.Tensor
    """(B, E) float32"""
    tail: torch.Tensor
    """(B,) float32"""
    targets: torch.Tensor
    """(B,) int64, the ground-truth class."""
    dense: torch.Tensor | None = None
    """(B, C) float32 or None."""

    @classmethod
    def from_batch(cls, batch: LabelBatch) -> Self:
        """Flatten (images, m) to crops; the tensors share memory with the arrays where they can."""
        num_images, m, num_entries = batch.class_ids.shape
        flat = num_images * m
        dense = None if batch.dense is None else batch.dense.reshape(flat, -1)
        return cls(
            class_ids=torch.from_numpy(batch.class_ids.reshape(flat, num_entries)),
            weights=torch.from_numpy(batch.weights.reshape(flat, num_entries)),
            tail=torch.from_numpy(batch.tail.reshape(flat)),
            targets=torch.from_numpy(np.repeat(batch.targets, m)),
            dense=None if dense is None else torch.from_numpy(dense),
        )

    @classmethod
    def from_targets(cls, targets: torch.Tensor) -> Self:
        """Return the ground truth alone, as one entry of weight 1; ``targets`` is (B,) int64."""
        return cls(
            class_ids=targets[:, None],
            weights=torch.ones(len(targets), 1),
            tail=torch.zeros(len(targets)),
            targets=targets,
        )

    def to(self, device: torch.device) -> Self:
        """Return the labels on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the labels in page-locked memory; the DataLoader calls this by name."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        return type(self)(
            change(self.class_ids),
            change(self.weights),
            change(self.tail),
            change(self.targets),
            None if self.dense is None else change(self.dense),
        )

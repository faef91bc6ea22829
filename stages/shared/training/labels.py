"""Labels of one batch as tensors, crop after crop.

Shapes: B crops (images x crops an image), E entries a crop, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    partner_targets: torch.Tensor | None = None
    """(B,) int64, the ground-truth class of what was mixed in; None: nothing was."""
    share: float | torch.Tensor = 1.0
    """Weight of ``targets`` in the mixed ground truth, or (B,) float32 of each crop's;
    ``partner_targets`` have the rest."""

    @classmethod
    def from_batch(cls, batch: LabelBatch) -> Self:
        """Flatten (images, m) to crops; the tensors share memory with the arrays where they can."""
        num_images, m, num_entries = batch.class_ids.shape
        flat = num_images * m
        dense = None if batch.dense is None else batch.dense.reshape(flat, -1)
        partner_targets, share = None, None
        if batch.mix is not None and batch.partner_targets is not None:
            partner_targets = torch.from_numpy(batch.partner_targets.reshape(flat))
            share = torch.from_numpy(batch.mix.shares.reshape(flat))
        return cls(
            class_ids=torch.from_numpy(batch.class_ids.reshape(flat, num_entries)),
            weights=torch.from_numpy(batch.weights.reshape(flat, num_entries)),
            tail=torch.from_numpy(batch.tail.reshape(flat)),
            targets=torch.from_numpy(np.repeat(batch.targets, m)),
            dense=None if dense is None else torch.from_numpy(dense),
            partner_targets=partner_targets,
            share=1.0 if share is None else share,
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

    def mixed(self, partners: torch.Tensor, share: float) -> Self:
        """Return share * label + (1 - share) * label of the crop ``partners`` (B,) int64 names.

        Sparse labels get twice as many entries and stay sparse; a class of both has two of them.
        """
        rest = 1 - share
        ids, weights = self.class_ids, self.weights
        mixed = replace(
            self,
            class_ids=torch.cat([ids, ids[partners]], 1),
            weights=torch.cat([share * weights, rest * weights[partners]], 1),
            tail=share * self.tail + rest * self.tail[partners],
            dense=None if self.dense is None else share * self.dense + rest * self.dense[partners],
        )
        return mixed.with_mixed_truth(partners, share)

    def with_mixed_truth(self, partners: torch.Tensor, share: float) -> Self:
        """Return these labels with the ground truth alone mixed, as in `mixed`."""
        assert self.partner_targets is None, "mixed once"
        return replace(self, partner_targets=self.targets[partners], share=share)

    def expand(self, num_classes: int) -> torch.Tensor:
        """Return the labels as (B, C) float64; the loss never does this."""
        if self.dense is not None:
            return self.dense.double()
        full = self.tail.double()[:, None].repeat(1, num_classes)
        return full.scatter_add_(1, self.class_ids, self.weights.double())

    def to(self, device: torch.device) -> Self:
        """Return the labels on ``device``."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the labels in page-locked memory; the DataLoader calls this by name."""
        return self.map(lambda tensor: tensor.pin_memory())

    def cut(self, start: int, stop: int) -> Self:
        """Return the labels of crops ``start`` to ``stop``."""
        return self.map(lambda tensor: tensor[start:stop])

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """Return the labels with every tensor changed."""
        partner_targets, share = self.partner_targets, self.share
        return type(self)(
            change(self.class_ids),
            change(self.weights),
            change(self.tail),
            change(self.targets),
            None if self.dense is None else change(self.dense),
            None if partner_targets is None else change(partner_targets),
            change(share) if isinstance(share, torch.Tensor) else share,
        )

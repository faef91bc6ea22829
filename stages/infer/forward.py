"""The teacher's forwards: a batch of crops in, what is kept of its output back.

Shapes: B crops of a forward, P of them real (the others pad), C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stages.infer.config import Config
from stages.infer.core import Arrays, kept_values
from stages.infer.feed import Batch
from stages.infer.inputs import Inputs
from stages.shared.pixels import normalise
from store.errors import DataError, ShardError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Labeller:
    """Asks the teacher about batches of one shard's crops."""

    config: Config
    inputs: Inputs

    def label(self, batch: Batch, rows: NDArray[np.int64]) -> Arrays:
        """What is kept of the P crops ``rows`` (P, 2): pairs (image row, crop).

        Rows of images that failed hold what the teacher says of black; the caller drops them.

        Raises:
            ShardError: the teacher gave NaN or infinity.
            DataError: it has another number of classes.
        """
        inputs = self.inputs
        pixels = batch.pixels.to(inputs.device, non_blocking=True)
        dtype = _AUTOCAST.get(self.config.precision)
        with (
            torch.inference_mode(),
            torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype is not None),
        ):
            spec = inputs.teacher.spec
            logits = inputs.teacher.module(normalise(pixels, spec.mean, spec.std))
            logits = logits[: batch.num_crops].float()
            self._check(logits, batch, rows)
            targets = torch.as_tensor(inputs.images.class_ids[rows[:, 0]], dtype=torch.int64)
            kept = kept_values(inputs.kept, logits, targets.to(inputs.device))
        return {name: tensor.cpu().numpy() for name, tensor in kept.items()}

    def _check(self, logits: torch.Tensor, batch: Batch, rows: NDArray[np.int64]) -> None:
        name, num_classes = self.config.teacher.name, self.inputs.kept.num_classes
        if logits.shape[1] != num_classes:
            raise DataError(
                f"the teacher {name} gives {logits.shape[1]} classes, the images have "
                f"{num_classes}; use a teacher of these classes"
            )
        bad = (~torch.isfinite(logits).all(dim=1)).cpu().numpy()
        bad &= ~np.isin(rows[:, 0], list(batch.failed))
        if bad.any():
            image, crop = rows[np.flatnonzero(bad)[0]]
            raise ShardError(
                f"the teacher {name} gave NaN or infinity for crop {crop} of "
                f"{self.inputs.images.paths[image]}; try infer.precision float32 or other weights"
            )

"""The teachers' forwards: a batch of crops in, what is kept of their output back.

Shapes: B crops of a forward, P of them real (the others pad), C classes (or outputs
of a projection head).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.infer.config import Config
from stages.infer.core import Arrays
from stages.infer.feed import Batch
from stages.infer.inputs import Inputs
from stages.infer.projection import HIGHEST, KeptProjection
from stages.infer.teachers import Teacher, averaged
from stages.shared.model_config import Interpolation, PixelSpec
from stages.shared.pixels import normalise
from store.errors import DataError, ShardError

PixelKey = tuple[tuple[int, int], Interpolation]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Labeller:
    """Asks the teachers about batches of one shard's crops."""

    config: Config
    inputs: Inputs

    def label(self, batches: Mapping[PixelKey, Batch], rows: NDArray[np.int64]) -> Arrays:
        """What is kept of the P crops ``rows`` (P, 2): pairs (image row, crop).

        ``batches`` hold the same crops as each of the teachers wants them. Rows of images that
        failed hold what the teachers say of black; the caller drops them.

        Raises:
            ShardError: a teacher gave NaN or infinity, or more than can be stored.
            DataError: it has another number of classes or outputs.
        """
        inputs = self.inputs
        failed = [image for batch in batches.values() for image in batch.failed]
        usable = ~np.isin(rows[:, 0], failed)
        dtype = _AUTOCAST.get(self.config.precision)
        with torch.inference_mode():
            with torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype is not None):
                said = self._forward(batches)
            for teacher, logits in zip(inputs.teachers, said, strict=True):
                self._check(teacher, logits, rows, usable)
            targets = torch.as_tensor(inputs.images.class_ids[rows[:, 0]], dtype=torch.int64)
            logits = averaged(self.config, inputs.teachers, said)
            kept = inputs.kept.values(logits, targets.to(inputs.device))
        return {name: tensor.cpu().numpy() for name, tensor in kept.items()}

    def _forward(self, batches: Mapping[PixelKey, Batch]) -> list[Tensor]:
        """Each teacher's outputs of the P crops, (P, C) float32."""
        device = self.inputs.device
        pixels = {key: batch.pixels.to(device, non_blocking=True) for key, batch in batches.items()}
        found = []
        for teacher in self.inputs.teachers:
            spec, key = teacher.model.spec, pixel_key(teacher.model.spec)
            outputs = teacher.model.module(normalise(pixels[key], spec.mean, spec.std))
            found.append(outputs[: batches[key].num_crops].float())
        return found

    def _check(
        self,
        teacher: Teacher,
        logits: Tensor,
        rows: NDArray[np.int64],
        usable: NDArray[np.bool_],
    ) -> None:
        kept = self.inputs.kept
        if logits.shape[1:] != (kept.num_outputs,):
            raise DataError(self._of_other_outputs(teacher, logits))
        if (place := _first(~torch.isfinite(logits), usable)) is not None:
            raise ShardError(
                f"the teacher {teacher.name} gave NaN or infinity for {self._crop(rows, place)}; "
                "try infer.precision float32 or other weights"
            )
        if not isinstance(kept, KeptProjection):
            return
        if (place := _first(torch.isinf(logits.half()), usable)) is not None:
            highest = float(logits[place].abs().max())
            raise ShardError(
                f"the teacher {teacher.name} gave {highest:.6g} for {self._crop(rows, place)}, and "
                f"outputs are stored as float16, up to {HIGHEST:g}; scale its last layer down"
            )

    def _of_other_outputs(self, teacher: Teacher, logits: Tensor) -> str:
        wanted, shape = self.inputs.kept.num_outputs, tuple(logits.shape[1:])
        found = str(shape[0]) if len(shape) == 1 else f"outputs of shape {shape} instead of"
        if isinstance(self.inputs.kept, KeptProjection):
            return (
                f"the teacher {teacher.name} gives {found} outputs, infer.num_outputs is {wanted}; "
                "set it to what the teacher's head gives"
            )
        return (
            f"the teacher {teacher.name} gives {found} classes, the images have {wanted}; use a "
            "teacher of these classes"
        )

    def _crop(self, rows: NDArray[np.int64], place: int) -> str:
        image, crop = rows[place]
        return f"crop {crop} of {self.inputs.images.paths[image]}"


def pixel_key(spec: PixelSpec) -> PixelKey:
    """What of a teacher's pixels is made before they are normalised: size and interpolation."""
    return spec.size, spec.interpolation


def _first(is_bad: Tensor, usable: NDArray[np.bool_]) -> int | None:
    """The first usable crop of (P, C) that has a bad output; None where there is none."""
    bad = is_bad.any(dim=1).cpu().numpy() & usable
    return int(np.flatnonzero(bad)[0]) if bad.any() else None

"""What a network is given in a step: pixels normalised, erased and mixed, and labels to match.

Shapes: B crops of a step, b of them this rank's, (h, w) input size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from stages.shared.model_config import PixelSpec
from stages.shared.pixels import normalise
from stages.shared.training.config import TrainingConfig
from stages.shared.training.erase import erase
from stages.shared.training.labels import LabelTensors
from stages.shared.training.loader import TrainingBatch
from stages.shared.training.mixing import Mix, mix_pixels
from stages.shared.training.projection_loss import projection_probs
from stages.shared.training.ranks import Ranks


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One rank's crops of a step."""

    pixels: torch.Tensor
    """(b, 3, h, w) float32 for the student."""
    labels: LabelTensors
    """Mixed where the crops are; with an online teacher only the ground truth in them counts."""
    teacher_pixels: torch.Tensor | None = None
    """(b, 3, ..) float32 for an online teacher, mixed as the student's, never erased."""

    def parts(self, count: int) -> Iterator["StepInputs"]:
        """Yield equal parts, in order; ``count`` divides b."""
        size = len(self.pixels) // count
        for start in range(0, len(self.pixels), size):
            yield self.cut(start, start + size)

    def cut(self, start: int, stop: int) -> "StepInputs":
        """Return crops ``start`` to ``stop``."""
        teacher = self.teacher_pixels
        return StepInputs(
            self.pixels[start:stop],
            self.labels.cut(start, stop),
            None if teacher is None else teacher[start:stop],
        )


@dataclass(frozen=True, slots=True)
class Preparation:
    """Makes `StepInputs` of batches."""

    config: TrainingConfig
    ranks: Ranks
    spec: PixelSpec
    teacher_spec: PixelSpec | None = None
    """Of an online teacher, where there is one."""

    def __call__(self, batch: TrainingBatch, mix: Mix | None, seed: int) -> StepInputs:
        """Return a rank's crops as a network sees them; the same whatever the number of ranks.

        ``batch`` has b crops on the device, ``mix`` stands for all B of the step, and ``seed`` is
        the step's. Where crops are mixed across images, or erased by draws that run through the
        step, every rank is given the crops of all.
        """
        num_crops = len(batch.pixels)
        start = self.ranks.rank * num_crops
        is_shared = self.ranks.count > 1 and self._needs_all(mix)
        if is_shared:
            batch = _gathered(batch, self.ranks)
        elif mix is not None and self.ranks.count > 1:
            mix = mix.part(start, start + num_crops)
        inputs = StepInputs(
            mix_pixels(self._normalised(batch.pixels, seed), mix),
            self._labels(batch.labels, mix),
            self._teacher_pixels(batch, mix),
        )
        return inputs.cut(start, start + num_crops) if is_shared else inputs

    def _needs_all(self, mix: Mix | None) -> bool:
        mixes_images = mix is not None and self.config.mix != "selfmix"
        return mixes_images or self.config.erase_probability > 0

    def _normalised(self, pixels: torch.Tensor, seed: int) -> torch.Tensor:
        return erase(normalise(pixels, self.spec.mean, self.spec.std), self.config, seed)

    def _labels(self, labels: LabelTensors, mix: Mix | None) -> LabelTensors:
        if self.config.loss == "projection":
            assert labels.dense is not None, "check_loss lets no other kind through"
            probs = projection_probs(labels.dense, self.config.projection_temperature)
            labels = replace(labels, dense=probs)
        if mix is None:
            return labels
        partners = mix.partners_on(labels.targets.device)
        if self.teacher_spec is not None:
            return labels.with_mixed_truth(partners, mix.share)
        return labels.mixed(partners, mix.share)

    def _teacher_pixels(self, batch: TrainingBatch, mix: Mix | None) -> torch.Tensor | None:
        spec = self.teacher_spec
        if spec is None:
            return None
        pixels = batch.pixels if batch.teacher_pixels is None else batch.teacher_pixels
        return mix_pixels(normalise(pixels, spec.mean, spec.std), mix)


def _gathered(batch: TrainingBatch, ranks: Ranks) -> TrainingBatch:
    teacher = batch.teacher_pixels
    return replace(
        batch,
        pixels=ranks.gather(batch.pixels),
        labels=batch.labels.map(ranks.gather),
        teacher_pixels=None if teacher is None else ranks.gather(teacher),
    )

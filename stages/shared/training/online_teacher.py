"""A teacher that runs in every step, instead of labels from a store. Shapes: B crops, C classes."""

from dataclasses import dataclass

import torch

from stages.shared.models import Model
from stages.shared.pixels import normalise
from stages.shared.training.mixing import Mix, mix_pixels


@dataclass(frozen=True, slots=True)
class OnlineTeacher:
    """A teacher that labels the very crops of each step, instead of labels from the store."""

    model: Model

    def prepare(self, device: torch.device) -> None:
        """Freeze it and put it on ``device``."""
        self.model.module.to(device).eval().requires_grad_(False)

    def labels(
        self, pixels: torch.Tensor, temperature: float, mix: Mix | None = None
    ) -> torch.Tensor:
        """Return soft labels (B, C) of uint8 crops at the teacher's own size, mixed by ``mix``."""
        spec = self.model.spec
        with torch.inference_mode():
            inputs = mix_pixels(normalise(pixels, spec.mean, spec.std), mix)
            logits: torch.Tensor = self.model.module(inputs)
            return (logits.float() / temperature).softmax(1)

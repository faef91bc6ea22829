"""A teacher that runs in every step, instead of labels from a store. Shapes: B crops, C classes."""

from dataclasses import dataclass

import torch

from stages.shared.models import Model


@dataclass(frozen=True, slots=True)
class OnlineTeacher:
    """A teacher that labels the very crops of each step, after they were mixed."""

    model: Model

    def prepare(self, device: torch.device) -> None:
        """Freeze it and put it on ``device``."""
        self.model.module.to(device).eval().requires_grad_(False)

    def probabilities(self, inputs: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return soft labels (B, C) float32 of crops (B, 3, h, w) as the teacher wants them."""
        with torch.inference_mode():
            logits: torch.Tensor = self.model.module(inputs)
            found = (logits.float() / temperature).softmax(1)
        # inference tensors cannot be saved for a backward pass; a clone outside can
        return found.clone()

"""How large a measurement may be: a guess at the teachers' speed, from a few black pictures."""

import time
from dataclasses import dataclass

import torch

from stages.infer.config import Config
from stages.infer.examine.panel import Panel
from stages.infer.inputs import Inputs

_MOST = 64
_LONG_ENOUGH = 0.25
_BATCHES = 16
"""Forwards that a measurement should have at least, warming up and trying out included."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Batch size and crops an image that a short measurement can afford."""

    batch_size: int
    num_crops: int


def scale(config: Config, inputs: Inputs, seconds: float) -> Scale:
    """The parameters' own batch size and M, or less where these would take much longer.

    A giant teacher on a CPU takes minutes for a batch of 256.
    """
    num_crops = inputs.kept.num_crops
    rate = _rate(config, inputs)
    affordable = max(1, int(rate * seconds))
    batch_size = min(config.batch_size, max(1, affordable // _BATCHES))
    return Scale(batch_size, min(num_crops, max(1, affordable // 4)))


def _rate(config: Config, inputs: Inputs) -> float:
    """Crops a second, at batches that grow until one takes a quarter of a second."""
    panel = Panel(config, inputs.teachers, inputs.kept.num_outputs, inputs.device)
    size = 1
    while True:
        rates = []
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            for teacher in inputs.teachers:
                height, width = teacher.model.spec.size
                pixels = torch.zeros((size, 3, height, width), dtype=torch.uint8)
                panel.ask(teacher, pixels).amax().item()
            taken = time.perf_counter() - began
            rates.append(size / taken)
            if taken > 4 * _LONG_ENOUGH:
                return rates[-1]
        if size >= min(_MOST, config.batch_size) or size / rates[-1] > _LONG_ENOUGH:
            return rates[-1]
        size *= 4

"""Random Erasing (Zhong et al. 2020) of a step's normalised crops, by timm.

Shapes: B crops, (h, w) input size.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor


class ErasingConfig(Protocol):
    """What erasing needs of a training's parameters."""

    @property
    def erase_probability(self) -> float:
        """Of each crop."""

    @property
    def erase_mode(self) -> str:
        """const: 0; rand: one random colour; pixel: random pixels."""


def erase(pixels: Tensor, config: ErasingConfig, seed: int) -> Tensor:
    """Return crops of which some have a rectangle replaced.

    Args:
        pixels: (B, 3, h, w) normalised, on any device; they stay as they are.
        config: how many crops, and by what.
        seed: at least 0; the result is a function of pixels, settings and seed. No generator of
            the process is left changed.

    Returns a new tensor in the memory format of ``pixels``; at probability 0 ``pixels`` themselves.
    """
    if config.erase_probability == 0:
        return pixels
    device = pixels.device
    eraser = RandomErasing(  # type: ignore[no-untyped-call]  # timm has no types here
        config.erase_probability, mode=config.erase_mode, device=device
    )
    erased = pixels.clone()
    with _seeded(device, seed):
        eraser(erased)
    return erased


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed what timm draws from: boxes from Python's generator, colours from the device's."""
    is_cpu = device.type == "cpu"
    kind = "cuda" if is_cpu else device.type  # of further devices: on a CPU there are none
    state = random.getstate()
    with torch.random.fork_rng([] if is_cpu else [device], device_type=kind):
        random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if not is_cpu:
            module = torch.get_device_module(device)
            with module.device(device):
                module.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)

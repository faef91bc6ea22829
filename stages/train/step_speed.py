"""Speed of a student's step, without data: forward, loss and backward of random pixels.

Shapes: B crops, C classes, (h, w) the student's input size.
"""

import time
from dataclasses import dataclass

import torch
from torch import nn

from stages.shared import devices, models
from stages.shared.model_config import PixelSpec
from stages.train.config import Config

_FIRST = 4
_WARM_UP = 2
_SHORT = 0.3
"""Seconds of a step so short that it says little of larger ones."""


@dataclass(frozen=True, slots=True)
class StepSpeed:
    """What a measurement found."""

    crops_per_second: float
    batch_size: int
    """Crops of the steps that were measured: the training's, or fewer where these took too long."""
    device: str
    """``cpu``, or the name of the GPU."""


def step_speed(config: Config, num_classes: int, seconds: float) -> StepSpeed:
    """Measure steps of a student with random weights, for about ``seconds``.

    Batches grow to that of the training as long as time and memory allow.

    Raises:
        ParamsError: no such student, or no such device.
    """
    device = devices.choose(config.device, "train.device")
    plain = config.model.model_copy(update={"pretrained": False, "weights": None})
    model = models.build(plain, num_classes, seed=0)
    module = model.module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    end, size = time.monotonic() + seconds, min(_FIRST, config.batch_size)
    best = 0.0, size
    _seconds_a_step(config, module, model.spec, num_classes, size, device)  # begins slowly
    while True:
        try:
            taken = _seconds_a_step(config, module, model.spec, num_classes, size, device)
        except torch.OutOfMemoryError:
            break
        best = size / taken, size
        larger = min(4 * size, config.batch_size)
        is_late = time.monotonic() + (_WARM_UP + 1) * taken * larger / size > end
        if larger == size or (is_late and taken > _SHORT):
            break
        size = larger
    return StepSpeed(best[0], best[1], name)


def _seconds_a_step(
    config: Config,
    module: nn.Module,
    spec: PixelSpec,
    num_classes: int,
    size: int,
    device: torch.device,
) -> float:
    pixels = torch.randn((size, 3, *spec.size), device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels = torch.full((size, num_classes), 1 / num_classes, device=device)
    dtype = devices.AUTOCAST.get(config.precision)
    times = []
    for _ in range(_WARM_UP + 1):
        began = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits = module(pixels)
        loss = -(labels * torch.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        module.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)

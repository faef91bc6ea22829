"""Devices, precision and processes of a training, by accelerate and torch."""

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stages.shared import devices
from stages.shared.training.config import TrainingConfig
from stages.shared.training.ranks import Ranks
from store.errors import ParamsError

_PRECISIONS = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(config: TrainingConfig, ranks: Ranks) -> Accelerator:
    """Return accelerate's view of the device and precision asked for.

    Raises:
        ParamsError: there is no such device here, it cannot do that precision, or this process was
            started as one of several that do not train together.
    """
    kind = devices.choose(config.device, "device").type
    if kind == "cpu" and config.precision == "fp16":
        raise ParamsError("precision is fp16, which needs a GPU; allowed on a CPU: float32, bf16")
    if kind == "cpu" and config.sync_batch_norm and ranks.count > 1:
        raise ParamsError("sync_batch_norm is true, which needs GPUs; allowed on a CPU: false")
    accelerator = Accelerator(cpu=kind == "cpu", mixed_precision=_PRECISIONS[config.precision])
    if accelerator.num_processes != ranks.count:
        raise ParamsError(
            f"this was started as {accelerator.num_processes} processes; start it as one, without "
            "torchrun or accelerate launch"
        )
    return accelerator


def place(
    module: nn.Module, config: TrainingConfig, ranks: Ranks, device: torch.device
) -> tuple[nn.Module, nn.Module]:
    """Return the module on ``device``, and what computes its forward together with all ranks."""
    if config.sync_batch_norm and ranks.count > 1:
        module = convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    module = module.to(device)
    if ranks.count == 1:
        return module, module
    places = [device] if device.type == "cuda" else None
    return module, DistributedDataParallel(module, device_ids=places)

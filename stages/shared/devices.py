"""Which device a stage computes on."""

import torch

from store.errors import ParamsError


def choose(name: str, key: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` stands for here.

    Args:
        name: as params.yaml has it.
        key: where params.yaml has it, for the message: ``infer.device``.

    Raises:
        ParamsError: it is cuda, and there is no usable GPU.
    """
    usable = torch.cuda.is_available()
    if name == "cuda" and not usable:
        raise ParamsError(f"{key} is cuda, but no GPU is usable here; allowed: auto, cpu")
    return torch.device("cuda" if usable and name != "cpu" else "cpu")

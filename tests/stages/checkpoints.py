"""Checkpoints that the tests of them share, and how they are compared."""

from pathlib import Path
from typing import Any

import torch

KEY = "a" * 64
STATE: dict[str, Any] = {
    "step": 7,
    "weights": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False])},
    "losses": [0.5, float("inf")],
}


def only_save(folder: Path) -> Path:
    (save,) = folder.iterdir()
    return save


def is_same(found: Any, wanted: Any) -> bool:
    """Equal in value, type, dtype, type of keys and order of keys; NaN equals itself."""
    if isinstance(wanted, torch.Tensor):
        return (
            type(found) is torch.Tensor
            and found.dtype == wanted.dtype
            and found.shape == wanted.shape
            and bits(found) == bits(wanted)
        )
    if type(found) is not type(wanted):
        return False
    if isinstance(wanted, dict):
        return [*map(repr, found)] == [*map(repr, wanted)] and all(
            is_same(found[key], wanted[key]) for key in wanted
        )
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(is_same, found, wanted))
    return repr(found) == repr(wanted)


def bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().clone().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()

"""Networks as a user would write them: what `package.module:function` names in tests."""

from typing import Any

import timm
import torch
from torch import nn


class Small(nn.Module):
    """Its classifier is not the layer that was added last."""

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(width, num_classes)
        self.projector = nn.Linear(width, width + 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(images).flatten(1))
        return logits


def small(num_classes: int, width: int = 8) -> nn.Module:
    return Small(num_classes, width)


def described(num_classes: int) -> nn.Module:
    module = Small(num_classes)
    cfg = {"input_size": (3, 40, 48), "mean": (0.1, 0.2, 0.3), "classifier": "head"}
    module.default_cfg = {**cfg, "std": None}  # type: ignore[assignment]
    return module


class Wrapped(nn.Module):
    """Carries the description of a network that has lost its classifier."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        body: Any = timm.create_model("test_resnet", num_classes=0)
        self.body = body
        self.top = nn.Linear(body.num_features, num_classes)
        self.pretrained_cfg = body.pretrained_cfg

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.top(self.body(images))
        return logits


def odd_pixels(num_classes: int) -> nn.Module:
    module = Small(num_classes)
    module.pretrained_cfg = {"input_size": 40}  # type: ignore[assignment]
    return module


def fails(num_classes: int) -> nn.Module:
    raise KeyError("no such\nlayer")


def no_module(num_classes: int) -> list[int]:
    return [num_classes]


def anything(**kwargs: Any) -> nn.Module:
    return Small(3)


NUMBER = 3

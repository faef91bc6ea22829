"""The optimizer of a training, by timm's name, with timm's groups of parameters."""

from typing import Any

import torch
from timm.optim import (  # type: ignore[attr-defined]
    create_optimizer_v2,
    get_optimizer_info,
    list_optimizers,
)
from torch import nn

from stages.shared.training.optimizer_config import OptimizerConfig
from store.errors import ParamsError


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return timm's optimizer of that name; biases and normalisation layers have no weight decay.

    Parameters that need no gradient are left out. With ``layer_decay`` d, a group of parameters has
    ``lr_scale`` d ** (layers above its layer), which is for the caller to multiply its learning
    rate with at every step.

    Raises:
        ParamsError: timm has no optimizer of that name, it does not take these settings, or the
            layers of ``module`` are not known.
    """
    known = [str(name) for name in list_optimizers()]
    if config.optimizer.lower() not in known:
        raise ParamsError(
            f"optimizer is {config.optimizer!r}, which timm does not have; allowed: "
            f"{', '.join(known)}"
        )
    if get_optimizer_info(config.optimizer.lower()).second_order:
        raise ParamsError(
            f"optimizer is {config.optimizer!r}, which needs second derivatives; choose another"
        )
    if config.layer_decay is not None and not hasattr(module, "group_matcher"):
        raise ParamsError(
            f"layer_decay is {config.layer_decay:g}, but {type(module).__name__} does not say "
            "which layer is above which; use a model of timm, give the module timm's method "
            "group_matcher, or leave layer_decay out"
        )
    given = {"betas": config.betas, "eps": config.eps, "layer_decay": config.layer_decay}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            module,
            opt=config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **options,
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ParamsError(
            f"optimizer {config.optimizer!r} does not take these settings: {error}"
        ) from None
    return optimizer

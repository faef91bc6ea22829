"""Which pixels a model wants: asked of the parameters, the model's card and timm, in this order."""

from collections.abc import Callable
from typing import Any

import timm
import timm.data.config
from torch import nn

from stages.shared.model_card import Card
from stages.shared.model_config import ModelConfig, PixelSpec
from store.errors import ParamsError


def with_image_size(config: ModelConfig) -> dict[str, Any]:
    """Model arguments, with `img_size` for models whose weights depend on the input's size.

    Raises:
        ParamsError: ``input_size`` and ``model_kwargs.img_size`` differ.
    """
    kwargs = dict(config.model_kwargs)
    listed = timm.get_pretrained_cfg(config.name)
    if config.input_size is None or listed is None or not listed.fixed_input_size:
        return kwargs
    given = kwargs.setdefault("img_size", list(config.input_size))
    if _pair(given) != config.input_size:
        raise ParamsError(
            f"input_size is {list(config.input_size)}, model_kwargs.img_size is {given}: "
            f"{config.name} takes one size; give one of them"
        )
    return kwargs


def pixel_spec(config: ModelConfig, module: nn.Module, card: Card | None) -> PixelSpec:
    """The config's fields, else the card's, else what timm says of the model.

    Raises:
        ParamsError: timm's answer is something that our resize cannot do.
    """
    resolve: Callable[[nn.Module], dict[str, Any]] = timm.data.config.resolve_model_data_config
    timms = resolve(module)
    size = tuple(timms["input_size"][1:])
    if "img_size" in config.model_kwargs:
        size = _pair(config.model_kwargs["img_size"])
    values: dict[str, Any] = {
        "size": size,
        "interpolation": timms["interpolation"],
        "mean": tuple(timms["mean"]),
        "std": tuple(timms["std"]),
        "crop_ratio": timms["crop_pct"],
        "crop_mode": timms["crop_mode"],
    }
    if card is not None:
        values |= {name: getattr(card.pixels, name) for name in values}
    for name in values:
        chosen = getattr(config, "input_size" if name == "size" else name)
        values[name] = values[name] if chosen is None else chosen
    _check_supported(config.name, values)
    return PixelSpec(**values)


def _check_supported(name: str, values: dict[str, Any]) -> None:
    allowed = {"interpolation": ("bilinear", "bicubic"), "crop_mode": ("center", "squash")}
    for key, choices in allowed.items():
        if values[key] not in choices:
            raise ParamsError(
                f"{key}: {name} was trained with {values[key]!r}, which is not supported; "
                f"choose {' or '.join(choices)}"
            )


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)

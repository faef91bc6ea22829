"""Which pixels a model wants: asked of the parameters, the model's card and what it comes from."""

from collections.abc import Callable
from typing import Any

import timm
import timm.data.config
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from stages.shared.classifiers import described_by
from stages.shared.model_card import Card
from stages.shared.model_config import ModelConfig, PixelSpec
from stages.shared.model_sources import torchvision_kwargs, torchvision_name
from stages.shared.pretrained import default_weights
from store.errors import ParamsError

_OWN_DEFAULTS = {
    "input_size": (3, 224, 224),
    "interpolation": "bilinear",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "crop_pct": 0.875,
    "crop_mode": "center",
}
"""Pixels of a module that says nothing of its own, in timm's words."""


def builder_kwargs(config: ModelConfig) -> dict[str, Any]:
    """Arguments of what builds the model, with its input size where weights depend on it.

    Raises:
        ParamsError: ``input_size`` and the argument of that meaning in ``model_kwargs`` differ.
    """
    kwargs = dict(config.model_kwargs)
    if config.library == "torchvision":
        kwargs = torchvision_kwargs(torchvision_name(config.name), kwargs)
    key = _size_key(config)
    if config.input_size is None or key is None:
        return kwargs
    height, width = config.input_size
    is_side = key == "image_size"
    if is_side and height != width:
        raise ParamsError(
            f"input_size is {list(config.input_size)}, allowed with {config.name}: a square"
        )
    given = kwargs.setdefault(key, height if is_side else list(config.input_size))
    if _pair(given) != config.input_size:
        raise ParamsError(
            f"input_size is {list(config.input_size)}, model_kwargs.{key} is {given}: "
            f"{config.name} takes one size; give one of them"
        )
    return kwargs


def says_size(config: ModelConfig) -> bool:
    """Whether the parameters fix the input size, by ``input_size`` or in ``model_kwargs``."""
    return config.input_size is not None or _given_size(config) is not None


def pixel_spec(config: ModelConfig, module: nn.Module, card: Card | None) -> PixelSpec:
    """The config's fields, else the card's, else what its library or the module says of the model.

    A module of the user's own says it by ``pretrained_cfg`` or ``default_cfg`` as timm's do; what
    it leaves out is 224x224, bilinear, the mean and deviation of ImageNet, crop ratio 0.875.

    Raises:
        ParamsError: the answer is something that our resize cannot do.
    """
    values = _library_values(config, module)
    size = _given_size(config)
    if size is not None:
        values["size"] = _pair(size)
    if card is not None:
        values |= {name: getattr(card.pixels, name) for name in values}
    for name in values:
        chosen = getattr(config, "input_size" if name == "size" else name)
        values[name] = values[name] if chosen is None else chosen
    _check_supported(config.name, values)
    return PixelSpec(**values)


def _size_key(config: ModelConfig) -> str | None:
    """The argument that says the input's size to a model whose weights depend on it."""
    if config.library == "timm":
        listed = timm.get_pretrained_cfg(config.name)
        return "img_size" if listed is not None and listed.fixed_input_size else None
    name = torchvision_name(config.name) if config.library == "torchvision" else ""
    if name.startswith("vit_"):
        return "image_size"
    return "input_size" if name.startswith("maxvit") else None


def _given_size(config: ModelConfig) -> Any:
    """The size in ``model_kwargs``, or None; functions of the user's may mean anything by one."""
    key = "img_size" if config.library == "timm" else _size_key(config)
    return None if key is None else config.model_kwargs.get(key)


def _library_values(config: ModelConfig, module: nn.Module) -> dict[str, Any]:
    if config.library == "torchvision":
        return _torchvision_values(torchvision_name(config.name))
    if config.library == "timm":
        resolve: Callable[[nn.Module], dict[str, Any]] = timm.data.config.resolve_model_data_config
        return _from_timms(resolve(module))
    said = {name: value for name, value in described_by(module).items() if value is not None}
    try:
        values = _from_timms(_OWN_DEFAULTS | said)
        height, width = values["size"]
        triples = {name: _triple(values[name]) for name in ("mean", "std")}
        return values | triples | {"size": (int(height), int(width))}
    except (TypeError, ValueError, IndexError) as error:
        raise ParamsError(
            f"name: the module of {config.name} has a pretrained_cfg that cannot be read "
            f"({error}); write it as timm does: input_size (3, height, width), mean, std, crop_pct"
        ) from error


def _from_timms(said: dict[str, Any]) -> dict[str, Any]:
    return {
        "size": tuple(said["input_size"][1:]),
        "interpolation": said["interpolation"],
        "mean": tuple(said["mean"]),
        "std": tuple(said["std"]),
        "crop_ratio": said["crop_pct"],
        "crop_mode": said["crop_mode"],
    }


def _torchvision_values(name: str) -> dict[str, Any]:
    weights = default_weights(name)
    if weights is None:
        return _from_timms(_OWN_DEFAULTS)
    preset = weights.transforms()
    side = int(preset.crop_size[0])
    return {
        "size": (side, side),
        "interpolation": preset.interpolation.value,
        "mean": _triple(preset.mean),
        "std": _triple(preset.std),
        # It resizes the shorter side and then crops, as crop_mode center does.
        "crop_ratio": min(1.0, side / int(preset.resize_size[0])),
        "crop_mode": "center",
    }


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


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

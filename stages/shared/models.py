"""Models of timm: building them, giving them weights, saving them."""

import difflib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from stages.shared.model_card import (
    CARD_NAME,
    WEIGHTS_NAME,
    Card,
    check_fits,
    find_card,
    load_card,
    weights_file,
)
from stages.shared.model_config import ModelConfig, PixelSpec
from stages.shared.pixel_spec import pixel_spec, with_image_size
from stages.shared.weights import (
    StateDict,
    load_into,
    plain_state_dict,
    read_state_dict,
    weights_digest,
)
from store.atomic import replace_folder
from store.errors import DataError, ParamsError, RetryError

__all__ = [
    "Card",
    "Model",
    "build",
    "card_of",
    "load_card",
    "load_model",
    "save_model",
    "weights_digest",
]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is ready to run on the CPU, in float32."""

    module: nn.Module
    spec: PixelSpec
    """The pixels that it wants."""

    digest: str
    """SHA-256 of its weights when it was built: names, dtypes, shapes, values."""


def build(config: ModelConfig, num_classes: int, *, seed: int | None = None) -> Model:
    """Build a model and give it the weights that the config names.

    ``seed`` fixes what is drawn at random (all weights, or a new classifier) without touching
    torch's global generator; without it that generator is used. Relative paths of weights are
    relative to the working folder.

    Raises:
        ParamsError: timm has no such model, or it does not take these arguments.
        DataError: the weights are missing, unreadable, or of another model or number of classes.
        RetryError: the download of pretrained weights failed.
    """
    _check_name(config.name)  # before the card: an unknown name is no other model
    path = None if config.weights is None else Path(config.weights)
    card = None if path is None else find_card(path)
    if path is not None and card is not None:
        check_fits(config, card, path)
        config = _at_size_of(config, card)
    module = _seeded(config, num_classes, seed)
    spec = pixel_spec(config, module, card)
    is_whole = path is not None and _load_weights(module, weights_file(path), num_classes, config)
    digest = weights_digest(module)
    if card is not None and is_whole and digest != card.digest:
        raise DataError(
            f"{path}: the weights are not those that {CARD_NAME} beside them was written for "
            f"(SHA-256 {digest[:12]}, the card says {card.digest[:12]}); make the model again"
        )
    return Model(module, spec, digest)


def card_of(
    config: ModelConfig, spec: PixelSpec, classes: Sequence[str], **extra: Any
) -> dict[str, Any]:
    """What `save_model` writes beside the weights, but for their digest; ``extra`` must be JSON."""
    return {
        "name": config.name,
        "model_kwargs": config.model_kwargs,
        "pixels": spec.to_json(),
        "classes": list(classes),
        "extra": extra,
    }


def save_model(folder: Path, module: nn.Module, card: dict[str, Any]) -> str:
    """Write `model.safetensors` and `model.json`, whole or not at all; return the digest.

    An older folder is replaced, never written into: its files may be links into DVC's cache.
    Wrappers' prefixes (DistributedDataParallel, torch.compile) are taken off.
    """
    digest = weights_digest(module)
    text = json.dumps({**card, "digest": digest}, indent=2, sort_keys=True, ensure_ascii=False)
    with replace_folder(folder) as partial:
        safetensors.torch.save_file(plain_state_dict(module), partial / WEIGHTS_NAME)
        (partial / CARD_NAME).write_text(text + "\n", encoding="utf-8")
        # safetensors makes its file readable by the owner alone, whatever the umask.
        shutil.copymode(partial / CARD_NAME, partial / WEIGHTS_NAME)
    return digest


def load_model(folder: Path) -> Model:
    """Build the model that `save_model` wrote.

    Raises:
        DataError: something is missing, damaged, or does not belong together.
    """
    card = load_card(folder)
    config = ModelConfig(name=card.name, model_kwargs=card.model_kwargs, weights=str(folder))
    return build(config, len(card.classes), seed=0)


def _seeded(config: ModelConfig, num_classes: int, seed: int | None) -> nn.Module:
    if seed is None:
        return _create(config, num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _create(config, num_classes)


def _create(config: ModelConfig, num_classes: int) -> nn.Module:
    """Build the architecture first: a mistake in it must not look like a failed download."""
    kwargs = with_image_size(config)
    try:
        module: nn.Module = timm.create_model(config.name, num_classes=num_classes, **kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError) as error:
        raise ParamsError(
            f"model_kwargs: {config.name} cannot be built with {json.dumps(kwargs, default=str)} "
            f"({_one_line(error)}); change model_kwargs"
        ) from error
    return _download(config, num_classes, kwargs, module) if config.pretrained else module


def _download(
    config: ModelConfig, num_classes: int, kwargs: dict[str, Any], module: nn.Module
) -> nn.Module:
    source = _pretrained_cfg(module)
    if not any(source.get(key) for key in ("url", "hf_hub_id", "file")):
        raise ParamsError(
            f"pretrained: timm has no weights for {config.name}; name a tag "
            f"({', '.join(timm.list_pretrained(config.name + '*')[:3]) or 'there is none'}) "
            "or give weights"
        )
    _check_num_classes(
        f"pretrained {config.name}", source.get("num_classes"), num_classes, config.new_classifier
    )
    try:
        pretrained: nn.Module = timm.create_model(
            config.name, pretrained=True, num_classes=num_classes, **kwargs
        )
    except Exception as error:
        # Downloads fail in the types of urllib, requests, httpx and the hub's client.
        raise RetryError(
            f"pretrained: the weights of {config.name} could not be downloaded "
            f"({_one_line(error)}); run again when the network works, "
            "or give a local file as weights"
        ) from error
    return pretrained


def _check_name(name: str) -> None:
    """Refuse what timm does not list, with the closest names that it does."""
    if timm.is_model(name) and ("." not in name or name in timm.list_pretrained(name)):
        return
    known = timm.list_pretrained() if "." in name else timm.list_models()
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
    raise ParamsError(f"name: timm has no model {name!r}; {hint}")


def _load_weights(module: nn.Module, path: Path, num_classes: int, config: ModelConfig) -> bool:
    """Load a file of weights; return whether all of it was taken (the classifier may be new)."""
    state = read_state_dict(path)
    found = _num_classes_of(module, state)
    _check_num_classes(str(path), found, num_classes, config.new_classifier)
    is_whole = found in (None, num_classes)
    if not is_whole:
        replaced = tuple(f"{prefix}." for prefix in _classifiers(module))
        fresh = {n: v for n, v in module.state_dict().items() if n.startswith(replaced)}
        state = {n: v for n, v in state.items() if not n.startswith(replaced)} | fresh
    load_into(module, state, path)
    return is_whole


def _at_size_of(config: ModelConfig, card: Card) -> ModelConfig:
    """The config with the card's input size: position embeddings have one entry a place."""
    if config.input_size is not None or "img_size" in config.model_kwargs:
        return config
    return config.model_copy(update={"input_size": card.pixels.size})


def _check_num_classes(
    what: str, found: int | None, num_classes: int, new_classifier: bool
) -> None:
    if found is not None and found != num_classes and not new_classifier:
        raise DataError(
            f"{what}: these weights tell {found} classes apart, the data has {num_classes}; "
            "use weights of these classes (or, to fine-tune a student, new_classifier: true)"
        )


def _num_classes_of(module: nn.Module, state: StateDict) -> int | None:
    """Number of classes that weights were trained on, or None where their names do not say."""
    for prefix in _classifiers(module):
        for name in (f"{prefix}.weight", f"{prefix}.bias"):
            if name in state and state[name].ndim > 0:
                return int(state[name].shape[0])
    return None


def _classifiers(module: nn.Module) -> tuple[str, ...]:
    """Names of the classifying layers; distilled models have two."""
    names = _pretrained_cfg(module).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _pretrained_cfg(module: nn.Module) -> dict[str, Any]:
    described: dict[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    return described


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

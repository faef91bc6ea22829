"""Models by name: building them, giving them weights, saving them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import nn

from stages.shared.classifiers import classifier_layers, classifier_parameters
from stages.shared.model_card import (
    CARD_NAME,
    WEIGHTS_NAME,
    Card,
    card_text,
    check_fits,
    find_card,
    load_card,
    weights_file,
)
from stages.shared.model_config import ModelConfig, PixelSpec
from stages.shared.model_sources import Builder, create, find_builder
from stages.shared.pixel_spec import builder_kwargs, pixel_spec, says_size
from stages.shared.pretrained import with_pretrained
from stages.shared.tensor_files import save_tensors
from stages.shared.weights import load_weights, plain_state_dict, read_state_dict, weights_digest
from store.atomic import replace_folder
from store.errors import DataError

__all__ = [
    "Card",
    "Model",
    "build",
    "card_of",
    "classifier_parameters",
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
    """SHA-256 of its weights when it was built: names, dtypes, shapes, values. The code of the
    module is not in it: one's own function is to be renamed where it comes to compute otherwise."""


def build(config: ModelConfig, num_classes: int, *, seed: int | None = None) -> Model:
    """Build a model and give it the weights that the config names.

    ``seed`` fixes what is drawn from torch's generator (all weights, or a new classifier) without
    touching the global one; without it the global one is used. Relative paths of weights are
    relative to the working folder, and a function of the user's own is found from there too.

    Raises:
        ParamsError: there is no such model, or it does not take these arguments.
        DataError: the weights are missing, unreadable, or of another model or number of classes.
        RetryError: the download of pretrained weights failed.
    """
    builder = find_builder(config)  # before the card: an unknown name is no other model
    path = None if config.weights is None else Path(config.weights)
    card = None if path is None else find_card(path)
    if path is not None and card is not None:
        check_fits(config, card, path)
        config = _at_size_of(config, card)
    module = _seeded(config, builder, num_classes, seed)
    spec = pixel_spec(config, module, card)
    is_whole = path is not None and _read_weights(config, module, weights_file(path), num_classes)
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
    text = card_text({**card, "digest": digest})
    with replace_folder(folder) as partial:
        save_tensors(partial / WEIGHTS_NAME, plain_state_dict(module))
        (partial / CARD_NAME).write_text(text, encoding="utf-8")
        # safetensors makes its file readable by the owner alone, whatever the umask.
        shutil.copymode(partial / CARD_NAME, partial / WEIGHTS_NAME)
    return digest


def load_model(folder: Path) -> Model:
    """Build the model that `save_model` wrote.

    Weights and card are data, but a card may name a function of one's own: this imports and calls
    it, so see `check_code` for a card that came from elsewhere. Whether the function still computes
    what it did cannot be told, since code is not in the digest.

    Raises:
        DataError: something is missing, damaged, or does not belong together.
        ParamsError: the function that the card names is not to be had here, or fails.
    """
    card = load_card(folder)
    try:
        config = ModelConfig(name=card.name, model_kwargs=card.model_kwargs, weights=str(folder))
    except pydantic.ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise DataError(f"{folder / CARD_NAME}: names no model ({said}); train again") from error
    return build(config, len(card.classes), seed=0)


def _seeded(config: ModelConfig, builder: Builder, num_classes: int, seed: int | None) -> nn.Module:
    if seed is None:
        return _create(config, builder, num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _create(config, builder, num_classes)


def _create(config: ModelConfig, builder: Builder, num_classes: int) -> nn.Module:
    """Build the architecture first: a mistake in it must not look like a failed download."""
    kwargs = builder_kwargs(config)
    module = create(config, builder, num_classes, kwargs)
    return with_pretrained(config, module, num_classes, kwargs) if config.pretrained else module


def _read_weights(config: ModelConfig, module: nn.Module, path: Path, num_classes: int) -> bool:
    """Load a file of weights; return whether all of it was taken (the classifier may be new)."""
    state, layers = read_state_dict(path), classifier_layers(module, num_classes)
    return load_weights(module, state, str(path), layers, num_classes, config.new_classifier)


def _at_size_of(config: ModelConfig, card: Card) -> ModelConfig:
    """The config with the card's input size: position embeddings have one entry a place."""
    if says_size(config):
        return config
    return config.model_copy(update={"input_size": card.pixels.size})

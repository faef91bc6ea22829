"""A saved model as a plain file of weights, for libraries that know nothing of this one."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from stages.shared.classifiers import classifier_parameters
from stages.shared.model_card import Card, load_card
from stages.shared.model_config import ModelConfig
from stages.shared.model_sources import torchvision_name
from stages.shared.models import Model, load_model
from stages.shared.pixel_spec import builder_kwargs
from stages.shared.weights import StateDict, plain_state_dict
from store import atomic
from store.errors import ParamsError

Target = Literal["timm", "torchvision"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how it is read."""

    file: str
    name: str
    """Of the model, as in params.yaml."""
    digest: str
    """Of the whole model's weights, as on its card."""
    num_tensors: int
    num_bytes: int
    how_to_load: str
    """One line of Python."""


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How another program builds the model that the weights are of."""

    build: Callable[[int], nn.Module]
    text: Callable[[int], str]
    """The same as Python, both with the number of classes."""
    can_lack_classes: bool
    """Whether 0 classes mean a model without a classifier."""


def export(
    folder: Path, file: Path, *, to: Target | None = None, backbone: bool = False
) -> Exported:
    """Write a saved model's weights to ``file``, whole or not at all, replacing an older one.

    A name that ends in .pth gives a file for ``torch.load(weights_only=True)``, any other one a
    file of safetensors, with the model's name, number of classes, digest and origin as metadata.
    ``to`` is the library that must be able to load them, by default the model's own; the whole
    model is built there, loaded strictly and compared before anything is written. ``backbone``
    leaves the classifier out.

    Raises:
        ParamsError: the library has no such model, or it computes something else; the module has
            no known classifier to leave out.
        DataError: the model is missing or damaged.
    """
    card = load_card(folder)
    model = load_model(folder)
    recipe = _recipe(card, to)
    state = _state(model.module, file)
    if recipe is not None:
        _check_equal(recipe, card, model, state)
    if backbone:
        left_out = classifier_parameters(model.module)
        for name in left_out:
            del state[name]
    atomic.write_bytes(file, _as_bytes(file, card, state, backbone))
    return Exported(
        file=str(file),
        name=card.name,
        digest=card.digest,
        num_tensors=len(state),
        num_bytes=file.stat().st_size,
        how_to_load=_how_to_load(file, card, recipe, state, backbone),
    )


def _state(module: nn.Module, file: Path) -> StateDict:
    """Tensors by name; for torch's own format with its versions of layout, as it always has."""
    plain = plain_state_dict(module)
    if file.suffix != ".pth":
        return plain
    state = module.state_dict()
    state.update(plain)
    return state


def _recipe(card: Card, to: Target | None) -> _Recipe | None:
    """How ``to`` builds the model, or None for one's own, which no library has."""
    config = ModelConfig(
        name=card.name, model_kwargs=card.model_kwargs, input_size=card.pixels.size
    )
    if to is None and config.library == "own":
        return None
    name, kwargs = torchvision_name(card.name), builder_kwargs(config)
    if to not in (None, config.library):
        # Arguments have other names there: the bare model must be the same one.
        name, kwargs = name if config.library == "own" else name.partition(".")[0], {}
        if name not in _listed(to):
            raise ParamsError(f"--to {to}: {to} has no model {name!r}; leave --to out")
    library = to or config.library
    return _timms(name, kwargs) if library == "timm" else _torchvisions(name, kwargs)


def _listed(to: Target | None) -> list[str]:
    if to == "timm":
        return list(timm.list_models())
    return list(torchvision.models.list_models(module=torchvision.models))


def _timms(name: str, kwargs: dict[str, Any]) -> _Recipe:
    def build(num_classes: int) -> nn.Module:
        module: nn.Module = timm.create_model(name, num_classes=num_classes, **kwargs)
        return module

    return _Recipe(build, lambda n: f"timm.create_model({_arguments(name, n, kwargs)})", True)


def _torchvisions(name: str, kwargs: dict[str, Any]) -> _Recipe:
    def build(num_classes: int) -> nn.Module:
        module: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=num_classes, **kwargs
        )
        return module

    return _Recipe(
        build, lambda n: f"torchvision.models.get_model({_arguments(name, n, kwargs)})", False
    )


def _arguments(name: str, num_classes: int, kwargs: dict[str, Any]) -> str:
    given = {"num_classes": num_classes} | kwargs
    return ", ".join([json.dumps(name), *(f"{key}={value!r}" for key, value in given.items())])


def _check_equal(recipe: _Recipe, card: Card, model: Model, state: StateDict) -> None:
    """Same names and shapes are not enough: a pooling without weights can be another one."""
    what = recipe.text(len(card.classes))
    with torch.random.fork_rng(devices=[]):
        other = recipe.build(len(card.classes))
    try:
        other.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ParamsError(
            f"--to: the weights of {card.name} do not load into {what} ({reason}); export to "
            "the library that it comes from, best as .pth, which keeps versions of layout"
        ) from error
    pixels = torch.rand((2, 3, *model.spec.size), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = model.module.eval()(pixels), other.eval()(pixels)
    if not torch.allclose(ours, theirs, rtol=0, atol=1e-4 * float(ours.abs().max())):
        raise ParamsError(
            f"--to: {what} takes the weights of {card.name}, but computes something else with "
            f"them (model_kwargs are {json.dumps(card.model_kwargs)}); leave --to out"
        )


def _as_bytes(file: Path, card: Card, state: StateDict, backbone: bool) -> bytes:
    if file.suffix == ".pth":
        buffer = io.BytesIO()  # into a file, torch would write that file's name
        torch.save(state, buffer)
        return buffer.getvalue()
    metadata = {
        "format": "pt",
        "name": card.name,
        "model_kwargs": json.dumps(card.model_kwargs, sort_keys=True),
        "num_classes": str(len(card.classes)),
        "part": "backbone" if backbone else "whole",
        "digest": card.digest,
        "made_from": json.dumps(card.extra, sort_keys=True, ensure_ascii=False),
    }
    return _in_order(safetensors.torch.save(state, metadata))


def _in_order(written: bytes) -> bytes:
    """The same file with a sorted header: safetensors puts metadata in a new order every time.

    The format: length of the header as 8 bytes little-endian, the header as JSON, the tensors at
    places counted from its end, which stands at a multiple of 8.
    """
    end = 8 + int.from_bytes(written[:8], "little")
    header = json.dumps(json.loads(written[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + written[end:]


def _how_to_load(
    file: Path, card: Card, recipe: _Recipe | None, state: StateDict, backbone: bool
) -> str:
    name = json.dumps(str(file), ensure_ascii=False)
    is_pth = file.suffix == ".pth"
    read = (
        f"torch.load({name}, weights_only=True)"
        if is_pth
        else f"safetensors.torch.load_file({name})"
    )
    if recipe is None:
        module, function = card.name.split(":")
        given = ", ".join(f"{key}={value!r}" for key, value in card.model_kwargs.items())
        given = f", {given}" if given else ""
        model = f"{module}.{function}(num_classes={len(card.classes)}{given})"
    elif backbone and recipe.can_lack_classes and _fits(recipe, state):
        return f"{recipe.text(0)}.load_state_dict({read})"
    else:
        model = recipe.text(len(card.classes))
    return f"{model}.load_state_dict({read}{', strict=False' if backbone else ''})"


def _fits(recipe: _Recipe, state: StateDict) -> bool:
    """Whether the model without classes takes the backbone strictly, as most of timm's do."""
    try:
        with torch.random.fork_rng(devices=[]):
            recipe.build(0).load_state_dict(state)
    except (RuntimeError, ValueError, ZeroDivisionError, AttributeError, TypeError):
        return False
    return True

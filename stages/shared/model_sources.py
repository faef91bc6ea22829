"""Where models come from: timm, torchvision, or a function of the user's. Random weights here."""

import difflib
import importlib
import inspect
import json
import operator
import os
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, cast

import timm
import torch
import torchvision
from torch import nn

from stages.shared.model_config import TORCHVISION_PREFIX, ModelConfig
from store.errors import ParamsError

Builder = Callable[..., object]

_BUILDING_FAILS_WITH = (TypeError, ValueError, RuntimeError, AssertionError, AttributeError)

_ONE_OUTPUT = ("googlenet", "inception_v3")
"""Models of torchvision with auxiliary outputs in training, which no loss here would use."""


def find_builder(config: ModelConfig) -> Builder:
    """Return what builds the model, to be called with ``num_classes`` and keyword arguments.

    The user's own function is imported here; the working folder is put in front of ``sys.path``
    for this, as ``python -m`` does.

    Raises:
        ParamsError: the library has no such model, or the function cannot be had.
    """
    if config.library == "own":
        return _import_factory(config.name)
    if config.library == "torchvision":
        name = torchvision_name(config.name)
        _check_known(name, _torchvision_names(), "torchvision", "torchvision.models.list_models()")
        return lambda **kwargs: torchvision.models.get_model(name, weights=None, **kwargs)
    _check_timm_name(config.name)
    return lambda **kwargs: timm.create_model(config.name, **kwargs)


def create(
    config: ModelConfig, builder: Builder, num_classes: int, kwargs: dict[str, Any]
) -> nn.Module:
    """Build the model with random weights, of torch's global generator.

    A module that does not say its ``num_classes`` is told, as timm's models are.

    Raises:
        ParamsError: it cannot be built with these arguments, or is no module.
    """
    # Somebody else's function may fail in any way; of a library these are the ways to say no.
    failures = Exception if config.library == "own" else _BUILDING_FAILS_WITH
    try:
        module = builder(num_classes=num_classes, **kwargs)
    except failures as error:
        kind = f"{type(error).__name__}: " if config.library == "own" else ""
        raise ParamsError(
            f"model_kwargs: {config.name} cannot be built with {json.dumps(kwargs, default=str)} "
            f"({kind}{one_line(error)}); change model_kwargs"
            + (" or the function" if config.library == "own" else "")
        ) from error
    if not isinstance(module, nn.Module):
        raise ParamsError(
            f"name: {config.name} returned {type(module).__name__}, allowed: a torch.nn.Module"
        )
    if not hasattr(module, "num_classes"):
        cast(Any, module).num_classes = num_classes
    return module


def torchvision_name(name: str) -> str:
    """The name of a model within torchvision."""
    return name.removeprefix(TORCHVISION_PREFIX)


def torchvision_kwargs(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a torchvision model, with those that give it one output and fix its pixels."""
    if name not in _ONE_OUTPUT:
        return kwargs
    # transform_input: as torchvision's own weights are used, so that its pixels fit them.
    return {"aux_logits": False, "init_weights": True, "transform_input": True} | kwargs


def _check_timm_name(name: str) -> None:
    """Refuse what timm does not list, with the closest names that it does."""
    if timm.is_model(name) and ("." not in name or name in timm.list_pretrained(name)):
        return
    known = timm.list_pretrained() if "." in name else timm.list_models()
    _check_known(name, known, "timm", "timm.list_models()")


def one_line(error: BaseException) -> str:
    """What an error says, on one line, cut where it is long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_known(name: str, known: Iterable[str], library: str, where: str) -> None:
    names = list(known)
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"see {where}"
    raise ParamsError(f"name: {library} has no model {name!r}; {hint}")


def _torchvision_names() -> list[str]:
    """Of its classification models; detection and segmentation ones live in submodules."""
    return list(torchvision.models.list_models(module=torchvision.models))


def _import_factory(name: str) -> Builder:
    module_name, _, attribute = name.partition(":")
    module = _import_module(name, module_name)
    try:
        factory = operator.attrgetter(attribute)(module)
    except AttributeError as error:
        close = difflib.get_close_matches(attribute, vars(module), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "check the spelling"
        where = getattr(module, "__file__", None) or module_name
        raise ParamsError(f"name: {name}: {_here(where)} has no {attribute!r}; {hint}") from error
    if not _takes_num_classes(factory):
        raise ParamsError(
            f"name: {name} takes no argument called num_classes, allowed: a function or class that "
            "does, and returns a torch.nn.Module"
        )
    found: Builder = factory
    return found


def _import_module(name: str, module_name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        with torch.random.fork_rng(devices=[]):  # what it draws would differ at a second import
            return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failed_import(name, module_name, error) from error
        raise ParamsError(
            f"name: {name}: there is no module {error.name!r}, neither installed nor in the "
            "working folder; check the spelling, and where the command is started"
        ) from error
    except (Exception, SystemExit) as error:
        raise _failed_import(name, module_name, error) from error


def _failed_import(name: str, module_name: str, error: BaseException) -> ParamsError:
    return ParamsError(
        f"name: {name}: importing {module_name} raised {type(error).__name__} "
        f"({one_line(error)}); correct the module"
    )


def _takes_num_classes(factory: object) -> bool:
    """Whether ``num_classes`` is said by name: a card may name code, and **kwargs take anything.

    So ``torch.hub:load`` on the card of a downloaded model is no way to run its writer's code.
    """
    if not callable(factory):
        return False
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False
    return "num_classes" in parameters


def _here(path: str) -> str:
    """A path as seen from the working folder."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative

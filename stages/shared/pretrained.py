"""Weights that timm and torchvision publish: found, downloaded, given to a model."""

import contextlib
import errno
import os
import pickle
import re
from collections.abc import Iterator
from typing import Any

import timm
import torchvision
from torch import nn

from stages.shared.classifiers import classifier_layers, described_by
from stages.shared.model_config import ModelConfig
from stages.shared.model_sources import one_line, torchvision_name
from stages.shared.weights import StateDict, check_num_classes, load_weights
from store.errors import DataError, FerkdError, ParamsError, RetryError

_DENSE_LAYER = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
"""Names in torchvision's files of densenet, which it renames itself when it loads them."""

_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST),
)
"""What a cache of weights that cannot be written answers."""

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def with_pretrained(
    config: ModelConfig, module: nn.Module, num_classes: int, kwargs: dict[str, Any]
) -> nn.Module:
    """Return the model with its library's weights: ``module``, filled, or another one.

    Raises:
        ParamsError: there are no such weights.
        DataError: they tell another number of classes apart, or are refused.
        RetryError: the download failed.
        FerkdError: the library's cache cannot be written.
    """
    if config.library == "timm":
        return _of_timm(config, module, num_classes, kwargs)
    state = _of_torchvision(config, num_classes)
    whole = module.state_dict()
    state = {n: v for n, v in state.items() if n in whole or not n.startswith(_AUXILIARY)}
    what = f"pretrained {config.name}"
    layers = classifier_layers(module, num_classes)
    load_weights(module, state, what, layers, num_classes, config.new_classifier)
    return module


def _of_timm(
    config: ModelConfig, module: nn.Module, num_classes: int, kwargs: dict[str, Any]
) -> nn.Module:
    source = described_by(module)
    if not any(source.get(key) for key in ("url", "hf_hub_id", "file")):
        raise ParamsError(
            f"pretrained: timm has no weights for {config.name}; name a tag "
            f"({', '.join(timm.list_pretrained(config.name + '*')[:3]) or 'there is none'}) "
            "or give weights"
        )
    check_num_classes(
        f"pretrained {config.name}", source.get("num_classes"), num_classes, config.new_classifier
    )
    try:
        with _tensors_only():
            pretrained: nn.Module = timm.create_model(
                config.name, pretrained=True, num_classes=num_classes, **kwargs
            )
    except Exception as error:
        # Downloads fail in the types of urllib, requests, httpx and the hub's client.
        raise _failed(config, error) from error
    return pretrained


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Let no torch.load of the block unpickle code: timm's falls back to it where it fails."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _of_torchvision(config: ModelConfig, num_classes: int) -> StateDict:
    """Not by get_model(weights=...): that would unpickle whatever the file holds."""
    weights = default_weights(torchvision_name(config.name))
    if weights is None:
        raise ParamsError(
            f"pretrained: torchvision has no weights for {config.name}; give weights of a file"
        )
    found = len(weights.meta["categories"])
    check_num_classes(f"pretrained {config.name}", found, num_classes, config.new_classifier)
    try:
        state: StateDict = weights.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except pickle.UnpicklingError as error:
        raise DataError(
            f"pretrained: {weights.url.rsplit('/', 1)[-1]} in torch's cache is no file of "
            f"tensors and was refused; delete it there (torch.hub.get_dir()) and run again"
        ) from error
    except Exception as error:
        raise _failed(config, error) from error
    return {_DENSE_LAYER.sub(r"\1\2", name): value for name, value in state.items()}


def default_weights(name: str) -> Any:
    """torchvision's DEFAULT weights of a model, an entry of a WeightsEnum, or None."""
    return getattr(torchvision.models.get_model_weights(name), "DEFAULT", None)


def _failed(config: ModelConfig, error: Exception) -> FerkdError:
    disk = next((each for each in _chain(error) if _is_of_disk(each)), None)
    if disk is not None:
        return FerkdError(
            f"pretrained: the weights of {config.name} cannot be kept ({one_line(disk)}); make "
            "that folder writable or free some space, or set TORCH_HOME and HF_HOME to a folder "
            "elsewhere"
        )
    return RetryError(
        f"pretrained: the weights of {config.name} could not be downloaded "
        f"({one_line(error)}); run again when the network works, "
        "or give a local file as weights"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _DISK

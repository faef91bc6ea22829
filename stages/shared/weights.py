"""Weights of models: read without running anybody's code, checked by name and shape, digested."""

import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from stages.shared.tensor_files import load_tensors
from store.errors import DataError, says_nothing_of_file

StateDict = dict[str, Tensor]

_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")
"""Where trainers put the weights inside a checkpoint; averaged ones first, as timm does."""

_MOST_NESTS = 8
_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


class _Versioned(dict[str, Tensor]):
    """A state dict with the versions of layout that some models outside torch.nn insist on.

    torchvision's MNASNet refuses a state without one, which no container but a pickle keeps. The
    layers of torch.nn get none, as ever: it means an old file, which they know how to complete.
    """

    def __init__(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        super().__init__(state)
        self._metadata = {
            name: {"version": part._version}
            for name, part in module.named_modules()
            if "_version" in vars(type(part)) and not type(part).__module__.startswith("torch.nn.")
        }


def read_state_dict(path: Path) -> StateDict:
    """Read tensors by name from a .safetensors file, or a torch file that holds only tensors.

    Nests such as ``{"model": ...}`` are opened, prefixes of wrapped models are taken off.

    Raises:
        DataError: no such file, not a file of weights, or a pickle that asks for more than tensors.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file of weights; check the path or make the model first")
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    state = _open_nests(content)
    if not state or not all(_is_plain(name, value) for name, value in state.items()):
        raise DataError(
            f"{path}: holds no state dict (tensors by name); save model.state_dict() to it"
        )
    return _without_prefixes(state)


def load_weights(
    module: nn.Module,
    state: StateDict,
    what: str,
    classifier: Sequence[str],
    num_classes: int,
    new_classifier: bool,
) -> bool:
    """Load weights whose classifier may tell other classes apart; return whether all were taken.

    ``what`` names the weights in messages, ``classifier`` the classifying layers of ``module``.
    With ``new_classifier`` these keep their own weights where the number of classes differs.

    Raises:
        DataError: another number of classes, or the first key that does not fit.
    """
    found = _num_classes_of(state, classifier)
    check_num_classes(what, found, num_classes, new_classifier)
    is_whole = found in (None, num_classes)
    if not is_whole:
        replaced = tuple(f"{layer}." for layer in classifier)
        fresh = {n: v for n, v in module.state_dict().items() if n.startswith(replaced)}
        state = {n: v for n, v in state.items() if not n.startswith(replaced)} | fresh
    load_into(module, state, what)
    return is_whole


def check_num_classes(what: str, found: int | None, num_classes: int, new_classifier: bool) -> None:
    """Refuse weights that tell another number of classes apart, where that is known."""
    if found is not None and found != num_classes and not new_classifier:
        raise DataError(
            f"{what}: these weights tell {found} classes apart, the data has {num_classes}; "
            "use weights of these classes (or, to fine-tune a student, new_classifier: true)"
        )


def _is_plain(name: object, value: object) -> bool:
    """Whether it is a name and a tensor of ordinary numbers, which a network can take."""
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_complex() or value.is_meta)
    )


def load_into(module: nn.Module, state: Mapping[str, Tensor], what: str | Path) -> None:
    """Load weights that fit ``module`` in every name and shape.

    Raises:
        DataError: the first key that does not fit, and how many there are.
    """
    mismatches = _mismatched_shapes(module, state)
    if not mismatches:
        # num_batches_tracked may lack in old files: torch fills it in and does not call it missing.
        result = module.load_state_dict(_Versioned(module, state), strict=False)
        mismatches = [f"{key} is missing" for key in result.missing_keys]
        mismatches += [f"{key} is not in the model" for key in result.unexpected_keys]
    if mismatches:
        others = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
        raise DataError(
            f"{what}: these weights are of another model: {mismatches[0]}{others}; "
            "check that the model's name and model_kwargs are those of the weights"
        )


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and values, sorted by name; no container changes it.

    The code that computes with them is not in it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(plain_state_dict(module).items()):
        header = f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0"
        digest.update(header.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain_state_dict(module: nn.Module) -> StateDict:
    """Contiguous CPU tensors that share no memory with each other, without wrappers' prefixes."""
    seen: set[int] = set()
    state = {}
    for name, value in _without_prefixes(module.state_dict()).items():
        tensor = value.detach().to("cpu").contiguous()
        storage = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return state


def _is_safetensors(path: Path) -> bool:
    """Whether a file starts like safetensors: the length of a JSON header, then the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or start[8:] == b"{"


def _read_safetensors(path: Path) -> StateDict:
    try:
        state: StateDict = load_tensors(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and says_nothing_of_file(error):
            raise
        raise DataError(
            f"{path}: not a readable file of weights ({error}); make or download it again"
        ) from error
    return state


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # It warns of pickle protocols that it may not know, and raises where it does not.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises whatever damaged bytes lead its readers to.
        if isinstance(error, OSError) and says_nothing_of_file(error):
            raise
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and asked:
            raise DataError(
                f"{path}: refused, its pickle asks for {asked[1]}: more than tensors, and it could "
                "run code; save model.state_dict() alone, best as .safetensors"
            ) from error
        raise DataError(
            f"{path}: not a readable file of weights; make or download it again"
        ) from error


def _open_nests(content: object) -> dict[str, Any]:
    for _ in range(_MOST_NESTS):  # a file can nest into itself
        if not isinstance(content, dict):
            break
        nest = next((key for key in _NESTS if isinstance(content.get(key), dict)), None)
        if nest is None:
            return content
        content = content[nest]
    return {}


def _without_prefixes(state: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(state)
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in plain)), None):
        if not plain:
            break
        plain = {name.removeprefix(prefix): value for name, value in plain.items()}
    return plain


def _num_classes_of(state: StateDict, classifier: Sequence[str]) -> int | None:
    """Number of classes that weights were trained on, or None where their names do not say."""
    for layer in classifier:
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in state and state[name].ndim > 0:
                return int(state[name].shape[0])
    return None


def _mismatched_shapes(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} has shape {tuple(state[name].shape)}, the model {tuple(own.shape)}"
        for name, own in module.state_dict().items()
        if name in state and state[name].shape != own.shape
    ]

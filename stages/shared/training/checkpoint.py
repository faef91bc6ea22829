"""Checkpoints of a training: its whole state on disk, to be taken up after a kill. No pickle.

A checkpoint is a folder ``save-000000007`` of two files. ``state.safetensors`` holds the tensors,
``checkpoint.json`` everything else, the SHA-256 of the tensors and one of itself, so no flipped bit
goes unseen. Each is written whole under a new number before older ones are deleted: there is no
moment without a whole one.
"""

import json
import math
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from stages.shared.tensor_files import load_tensors, save_tensors
from store.atomic import LEFTOVER, has_live_writer, remove, replace_folder
from store.digest import canonical_json, sha256_file, sha256_json
from store.entries import installed_versions
from store.entry import NewerFormatError
from store.errors import DataError

VERSION = 1
"""Raised when a checkpoint written before cannot be read any more."""

_TENSORS = "state.safetensors"
_REST = "checkpoint.json"
_NAME = re.compile(r"save-(\d{9,})")
_KEY_LETTERS = 12
_PLAIN = (bool, int, str, type(None))
_DTYPES = frozenset(
    {
        *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    }
)
_DTYPE_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}
_SOFTWARE = ("ferkd-pipeline", "torch", "timm")


class _DamagedError(Exception):
    """A checkpoint that cannot be trusted; the message says why, after the file's name."""


class Checkpoints:
    """The checkpoints of one training, in a folder of their own with one writer."""

    def __init__(self, folder: Path, key: str) -> None:
        """``key`` is a digest of everything that can change a byte of the training's result."""
        self._folder = folder
        self._key = key

    def save(self, state: Mapping[str, object]) -> None:
        """Write a checkpoint, durably, then delete older ones.

        ``state`` is nested dicts (keys str or int), lists and tuples of tensors, int, float, str,
        bool and None. Tensors may lie on any device and share memory; they come back apart, on the
        CPU. Subclasses of dict, such as OrderedDict, come back as dict.

        Raises:
            TypeError: something else stands in it.
            OSError: the disk is full, or the folder cannot be written; older ones stay.
        """
        tensors: dict[str, Tensor] = {}
        encoded = _encode(state, tensors, "state")
        self._sweep()
        older = self._numbers()
        with replace_folder(self._path(older[-1] + 1 if older else 1)) as partial:
            save_tensors(partial / _TENSORS, tensors)
            (partial / _REST).write_bytes(self._described(partial / _TENSORS, encoded))
        for number in older:
            _discard(self._path(number))

    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole; None where there is none at all.

        Raises:
            DataError: all are damaged, or it is of another training or a newer version.
        """
        first: _DamagedError | None = None
        for number in reversed(self._numbers()):
            try:
                return self._read(self._path(number))
            except _DamagedError as error:
                first = first or error
        if first is not None:
            raise DataError(f"{first}; delete {self._folder} to start from the beginning")
        return None

    def remove(self) -> None:
        """Delete all checkpoints, such as when the training's result is published."""
        for number in self._numbers():
            _discard(self._path(number))
        self._sweep()
        remove(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / f"save-{number:09d}"

    def _numbers(self) -> list[int]:
        """Numbers of all that have their final name, ascending."""
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        return sorted(int(name[1]) for name in map(_NAME.fullmatch, names) if name)

    def _sweep(self) -> None:
        for path in self._folder.glob(".*.tmp"):
            if LEFTOVER.search(path.name) and not has_live_writer(path):
                remove(path)

    def _described(self, tensors: Path, encoded: object) -> bytes:
        versions = installed_versions()
        body = {
            "format_version": VERSION,
            "key": self._key,
            "software": {name: versions[name] for name in _SOFTWARE if name in versions},
            "tensors_sha256": sha256_file(tensors),
            "state": encoded,
        }
        try:
            return _file_bytes(body, sha256_json(body))
        except ValueError as error:  # half a surrogate pair, an integer of thousands of digits
            raise TypeError(f"state holds what JSON cannot: {error}") from error

    def _read(self, folder: Path) -> dict[str, Any]:
        path, tensors = folder / _REST, folder / _TENSORS
        body = _read_rest(path)
        if body.get("format_version") != VERSION:
            raise NewerFormatError(
                f"{path} has format version {body.get('format_version')}, this software reads "
                f"{VERSION}; upgrade ferkd-pipeline, or delete {self._folder} to start from the "
                "beginning"
            )
        if body.get("key") != self._key:
            raise DataError(
                f"{path} is a checkpoint of another training (key {_short(body.get('key'))}) than "
                f"this one (key {_short(self._key)}): its parameters or labels differ; "
                f"delete {self._folder} to start from the beginning"
            )
        try:
            if sha256_file(tensors) != body.get("tensors_sha256"):
                raise _DamagedError(f"{tensors} has other bytes than recorded (SHA-256)")
            state = _decode(body["state"], load_tensors(tensors))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise _DamagedError(f"{tensors} is missing") from error
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise _DamagedError(f"{folder} is no checkpoint ({error})") from error
        if not isinstance(state, dict):
            raise _DamagedError(f"{folder} is no checkpoint")
        return state


def _read_rest(path: Path) -> dict[str, Any]:
    """What stands in `checkpoint.json` besides its digest, once that was checked."""
    try:
        data = path.read_bytes()
        body = dict(json.loads(data))
        digest = body.pop("sha256", None)
        is_right = digest == sha256_json(body)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise _DamagedError(f"{path} is missing") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise _DamagedError(f"{path} is not JSON") from error
    if not is_right or data != _file_bytes(body, digest):
        raise _DamagedError(f"{path} does not match its own SHA-256")
    return body


def _file_bytes(body: dict[str, Any], digest: object) -> bytes:
    return canonical_json({**body, "sha256": digest}) + b"\n"


def _discard(path: Path) -> None:
    """Delete a folder so that a kill never leaves a part of it under its name."""
    aside = path.with_name(f".{path.name}.old-{socket.gethostname()}-{os.getpid()}.tmp")
    os.rename(path, aside)
    remove(aside)


def _short(key: object) -> str:
    return f"{str(key)[:_KEY_LETTERS]}.." if len(str(key)) > _KEY_LETTERS else str(key)


def _encode(value: object, tensors: dict[str, Tensor], place: str) -> object:
    """``value`` as JSON; its tensors are added to ``tensors``, ``place`` is named in errors.

    An object of JSON always has one key, which says what it stands for.
    """
    if isinstance(value, Tensor):
        return _encode_tensor(value, tensors, place)
    if type(value) in _PLAIN:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, torch.dtype) and value in _DTYPES:
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, dict):
        return {
            "dict": [
                [_checked_key(key, place), _encode(each, tensors, f"{place}[{key!r}]")]
                for key, each in value.items()
            ]
        }
    if type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        listed = [_encode(each, tensors, f"{place}[{n}]") for n, each in enumerate(value)]
        return listed if type(value) is list else {"tuple": listed}
    raise TypeError(f"{place} is a {type(value).__name__}, which no checkpoint can hold")


def _checked_key(key: object, place: str) -> object:
    if type(key) not in (str, int):
        raise TypeError(f"{place} has the key {key!r}, allowed in a checkpoint: str, int")
    return key


def _encode_tensor(value: Tensor, tensors: dict[str, Tensor], place: str) -> dict[str, object]:
    if value.dtype not in _DTYPES or value.layout != torch.strided:
        raise TypeError(
            f"{place} is a tensor of {value.dtype}, {value.layout}, which no checkpoint can hold"
        )
    name = str(len(tensors))
    # A copy of its own: safetensors refuses tensors that share memory, as tied weights do.
    tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    return {"channels_last" if _is_channels_last(value) else "tensor": name}


def _is_channels_last(value: Tensor) -> bool:
    """Kept, since an optimizer goes on with its momentum in the order of memory that it gets."""
    is_it = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return is_it and not value.is_contiguous()


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    match kind:
        case "dict":
            return {key: _decode(each, tensors) for key, each in held}
        case "tuple":
            return tuple(_decode(each, tensors) for each in held)
        case "float":
            return float(held)
        case "dtype":
            return _DTYPE_NAMES[held]
        case "tensor":
            return tensors[held]
        case "channels_last":
            return tensors[held].contiguous(memory_format=torch.channels_last)
    raise ValueError(f"it holds a {kind}")

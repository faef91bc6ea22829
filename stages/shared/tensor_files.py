"""Files of tensors, with errors of the disk told as what they are."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

_NUMBER = re.compile(r"os error (\d+)|: [^:]* \((\d+)\)$")


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file of safetensors; it is not flushed to disk yet.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    with _disk_is_told(path):
        safetensors.torch.save_file(tensors, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of safetensors.

    Raises:
        OSError: it cannot be opened.
        SafetensorError: it is damaged.
    """
    with _disk_is_told(path):
        return safetensors.torch.load_file(path)


@contextmanager
def _disk_is_told(path: Path) -> Iterator[None]:
    """Turn what safetensors and torch make of the system's errors back into these."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        number = _NUMBER.search(str(error))
        if number is None:
            raise
        code = int(number[1] or number[2])
        raise OSError(code, os.strerror(code), str(path)) from error

"""Types of arrays, the marks that no data equals, and what zarr raises over damaged files."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store.atomic import named_in_errors
from store.errors import DataError


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Type of one array; its first axis is the images of the shard."""

    dtype: str
    trailing: tuple[int, ...] = ()
    """Dimensions after the images, such as (M, C)."""
    names: tuple[str, ...] = ()
    """Names of the trailing dimensions, such as ("crop", "class")."""

    @property
    def fill(self) -> Any:
        """What a missing chunk reads as; no data has it."""
        dtype = np.dtype(self.dtype)
        return np.inf if dtype.kind == "f" else _largest(dtype)


def _largest(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 255


def reject_value(dtype: str) -> Any:
    """What stands for an image that could not be used: NaN, or the second largest integer."""
    kind = np.dtype(dtype)
    return np.nan if kind.kind == "f" else _largest(kind) - 1


def class_dtype(num_classes: int) -> str:
    """Smallest unsigned type for class ids below ``num_classes`` and the two marks above them."""
    for name in ("uint8", "uint16"):
        if num_classes <= np.iinfo(name).max - 1:
            return name
    return "uint32"


@contextmanager
def damage_is_told(path: Path) -> Iterator[None]:
    """Turn what zarr and its codecs raise over damaged files into a DataError.

    There is no list of it: damaged metadata ends in errors of any class. An error of the disk
    itself stays what it is.
    """
    try:
        with named_in_errors(path):
            yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number not in (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path} is missing or damaged ({reason}); delete it and run its stage again"
        ) from None

"""Arguments that people type into a notebook, checked before anything is read."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from store.errors import ParamsError

MAX_PIXELS = 4096
"""Height and width at most of a crop in a picture."""


def whole(name: str, value: Any, allowed: str) -> int:
    """``value`` as an int; raises ParamsError for anything else, bools among it."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise ParamsError(f"{name} is {_shown(value)}, allowed: {allowed}")


def positive(name: str, value: Any) -> int:
    """``value`` as an int of at least 1; raises ParamsError for anything else."""
    found = whole(name, value, "a whole number, at least 1")
    if found < 1:
        raise ParamsError(f"{name} is {found}, allowed: at least 1")
    return found


def shard(value: Any) -> int:
    """The number of one shard; raises ParamsError for anything else."""
    return whole("shard", value, "the number of one shard, such as 0 (see store.shards)")


def image(value: Any) -> int | str:
    """Id or path of an image; raises ParamsError for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, PurePath):
        return value.as_posix()
    return whole("image", value, "an id, such as 0, or a path as store.images() lists it")


def crops(value: Any) -> int | list[int]:
    """How many crops or which; raises ParamsError for anything else."""
    allowed = "how many, such as 5, or which, such as [0, 3]"
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes):
        return [whole("crops", each, allowed) for each in value]
    return whole("crops", value, allowed)


def size(value: Any) -> tuple[int, int]:
    """Height and width of a crop, given as both or as one of a square.

    Raises:
        ParamsError: it is neither, or a side is not 1 to `MAX_PIXELS` pixels.
    """
    allowed = f"(height, width) or one of both, each 1 to {MAX_PIXELS} pixels"
    listed = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
    sides = list(value) if listed else [value, value]
    if len(sides) != 2:
        raise ParamsError(f"size is {_shown(value)}, allowed: {allowed}")
    height, width = (whole("size", side, allowed) for side in sides)
    if not (1 <= height <= MAX_PIXELS and 1 <= width <= MAX_PIXELS):
        raise ParamsError(f"size is {_shown(value)}, allowed: {allowed}")
    return height, width


def _shown(value: Any) -> str:
    """Value and type on one short line."""
    said = " ".join(repr(value).split())
    return f"{said if len(said) <= 60 else said[:59] + '…'} ({type(value).__name__})"

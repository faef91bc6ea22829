"""Which values of a test belong to its fast part."""

from collections.abc import Iterable
from typing import TypeVar

from tests.faults.soak import rounds

_T = TypeVar("_T")


def without(values: Iterable[_T], *left_out: _T) -> list[_T]:
    """Return the values without those that are left to `make soak`."""
    return [value for value in values if rounds(1) > 1 or value not in left_out]

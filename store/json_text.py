"""JSON that somebody else may have written, or the disk may have changed: one kind of error."""

import json
from typing import Any


def parse(data: bytes) -> Any:
    """The value that JSON holds; its keys may not stand twice, for then it says two things.

    Raises:
        ValueError: it is not JSON, has a key twice or is nested too deeply.
    """
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_mapping(data: bytes) -> dict[str, Any]:
    """As `parse`, of a mapping.

    Raises:
        ValueError: likewise, or it is something else.
    """
    value = parse(data)
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found

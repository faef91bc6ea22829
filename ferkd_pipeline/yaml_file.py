"""YAML files read safely and as DVC reads them: YAML 1.2 scalars, no key twice.

PyYAML follows YAML 1.1, where `no` is false, `010` is 8 and `2e-3` is text. DVC reads params.yaml
by YAML 1.2, and one file must not mean two things.
"""

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from store.errors import ParamsError, says_nothing_of_file

MAX_BYTES = 4 * 2**20
"""A params.yaml that is larger is something else, such as a device that never ends."""

MAX_VALUES = 100_000
"""Values that a file may stand for: nine lines of aliases of aliases stand for a billion."""

MAX_DEPTH = 50
"""Mappings and lists in one another."""

_MOST_SAID = 300  # characters of a problem
_MOST_DIGITS = 1000

# Tag, pattern, and the first characters that such a scalar can have ("" for an empty one).
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """Safe: builds plain values only. Dates stay text; they mean nothing here."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be text, not a list or mapping", key.start_mark
                )
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value[:_MOST_DIGITS]  # no key takes so many, and Python refuses to print them
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; an empty file is an empty mapping.

    Raises:
        ParamsError: there is no such file, it is not YAML, or it is not a mapping of names.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file; name another with --params, or write one with "
            "`ferkd-pipeline init DIR --recipe NAME`"
        ) from None
    except OSError as error:
        if says_nothing_of_file(error):
            raise
        shown = str(path)[:_MOST_SAID]  # it may be too long a name
        raise ParamsError(f"{shown}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ParamsError(f"{path}: is larger than {MAX_BYTES:,} bytes; is it the right file?")
    try:
        return parse_mapping(content.decode("utf-8"), path)
    except UnicodeDecodeError:
        raise ParamsError(f"{path}: is not UTF-8 text") from None


def parse_mapping(text: str, path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; errors name it by `path`.

    Raises:
        ParamsError: it is not YAML, or it is not a mapping of names.
    """
    try:
        _check_size(yaml.parse(text, _Loader), path)
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise ParamsError(f"{path}{_line(error)}: {_said(error)}") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError, KeyError, AttributeError):  # PyYAML's, of `!!int many`
        raise ParamsError(
            f"{path}: a value is not of the kind that a tag (!!..) before it says; leave tags out"
        ) from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ParamsError(f"{path}: must be a mapping of section names, such as `sample:`")
    return value


def _check_size(events: Iterable[yaml.Event], path: Path) -> None:
    """Refuse what is small as a file and endless as values, before any of it is built."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # their anchors, and the values before them
    count = 0
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - before
            continue
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.NodeEvent):
            count += 1
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
        if len(open_nodes) > MAX_DEPTH or count > MAX_VALUES:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ParamsError(
                f"{path}: line {line}: too many values, aliases counted, or "
                f"too deep; allowed: {MAX_VALUES:,} values, {MAX_DEPTH} lists and mappings in one "
                "another"
            )


def _said(error: yaml.MarkedYAMLError) -> str:
    """The problem in one line; one that quotes a key quotes it whole."""
    is_half = (error.problem or "but").startswith("but")  # the other half is what was expected
    words = [error.context if is_half else None, error.problem]
    text = ", ".join(" ".join(each.split()) for each in words if each)
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}..."


def _line(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f": line {mark.line + 1}" if mark else ""

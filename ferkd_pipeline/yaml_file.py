"""YAML files read safely and as DVC reads them: YAML 1.2 scalars, no key twice.

PyYAML follows YAML 1.1, where `no` is false, `010` is 8 and `2e-3` is text. DVC reads params.yaml
by YAML 1.2, and one file must not mean two things.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from store.errors import ParamsError

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
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
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
        return parse_mapping(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file; name another with --params, or write one with "
            "`ferkd-pipeline init DIR --recipe NAME`"
        ) from None
    except UnicodeDecodeError:
        raise ParamsError(f"{path}: is not UTF-8 text") from None


def parse_mapping(text: str, path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; errors name it by `path`.

    Raises:
        ParamsError: it is not YAML, or it is not a mapping of names.
    """
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise ParamsError(f"{path}{_line(error)}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ParamsError(f"{path}: must be a mapping of section names, such as `sample:`")
    return value


def _line(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f": line {mark.line + 1}" if mark else ""

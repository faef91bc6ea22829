"""The keys that params.yaml can have, as their configs declare them."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ferkd_pipeline import params

_NAMES = {int: "integer", float: "number", str: "text", bool: "true | false"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key."""

    name: str
    """Dotted, with its section: ``train.model.name``; ``NAME`` stands for a name of one's own and
    ``[]`` for each of a list."""
    kind: str
    """What it takes, in words."""
    default: str
    """As YAML spells it; ``needed`` where there is none."""
    text: str
    """What it means."""


def keys(section: str) -> list[Key]:
    """Return all keys of a section, in the order of the config."""
    return list(_of_model(section, params.config_class(section)))


def _of_model(place: str, model: type[pydantic.BaseModel]) -> Iterator[Key]:
    if issubclass(model, pydantic.RootModel):
        yield from _inside(place, model.model_fields["root"].annotation)
        return
    for name, field in model.model_fields.items():
        inside = list(_inside(f"{place}.{name}", field.annotation))
        if not inside or not field.is_required():
            yield Key(f"{place}.{name}", _kind(field.annotation), _default(field), _text(field))
        yield from inside


def _inside(place: str, kind: Any) -> Iterator[Key]:
    """The keys of the models that a key takes, itself or in lists and mappings."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        yield from _of_model(place, kind)
    elif origin is Annotated:
        yield from _inside(place, arguments[0])
    elif origin is dict:
        yield from _inside(f"{place}.NAME", arguments[1])
    elif origin in (list, tuple):
        yield from _inside(f"{place}[]", arguments[0])
    elif origin in (Union, types.UnionType):
        for each in arguments:
            yield from _inside(f"{place}{_chosen_by(each)}", each)


def _chosen_by(kind: Any) -> str:
    """`{step: ferkd}` of a model that a fixed word chooses among others."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if not (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)):
        return ""
    for name, field in kind.model_fields.items():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return f"{{{name}: {get_args(field.annotation)[0]}}}"
    return ""


def _kind(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_kind(each) for each in arguments))
    if origin in (list, tuple):
        return f"list of {_kind(arguments[0])}"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)):
        return "mapping"
    if kind is type(None):
        return "null"
    return _NAMES.get(kind, "text")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return str(value)


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())

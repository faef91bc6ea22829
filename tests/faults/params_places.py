"""Every key that params.yaml can have, found in the configs: new fields come by alone."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo

from ferkd_pipeline import params, stage_table
from stages.calibrate.steps import SelectStep
from stages.sample.augment_config import Augment, ColourJitter
from stages.shared.training.config import TrainingConfig

SECTIONS = ("store", *stage_table.STAGE_NAMES)

Step = str | int
Path = tuple[Step, ...]

NEEDED: dict[type[pydantic.BaseModel], dict[str, Any]] = {
    TrainingConfig: {"steps": 1},
    Augment: {"rand_augment": {}},
    ColourJitter: {"hue": 0.1},
    SelectStep: {"scores": "chance"},
}
"""What a model needs though its fields have defaults: one of several must be given."""


@dataclass(frozen=True)
class Place:
    """One key, and a section in which it may stand: all of that section but the key is right."""

    section: str
    path: Path
    """Keys and places of lists below the section."""
    field: FieldInfo
    owner: type[pydantic.BaseModel]
    value: Any
    """The section."""

    @property
    def key(self) -> str:
        """As messages spell it."""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return self.section + "".join(steps)

    @property
    def annotation(self) -> Any:
        return self.field.annotation

    def document(self, value: Any) -> dict[str, Any]:
        """A params.yaml with this value there."""
        return {self.section: put(self.value, self.path, value)}

    def beside(self, key: str, value: Any) -> dict[str, Any]:
        """A params.yaml with another key beside this one."""
        return {self.section: put(self.value, (*self.path[:-1], key), value)}


def put(value: Any, path: Path, new: Any) -> Any:
    """``value`` with something new at a path; what is on the way there is copied."""
    if not path:
        return new
    if isinstance(value, list):
        return [put(item, path[1:], new) if n == path[0] else item for n, item in enumerate(value)]
    return {**value, path[0]: put(value.get(path[0]), path[1:], new)}


def minimal(model: type[pydantic.BaseModel]) -> Any:
    """The smallest thing that such a model takes."""
    if issubclass(model, pydantic.RootModel):
        return _example(model.model_fields["root"])
    needed = [values for kind, values in NEEDED.items() if issubclass(model, kind)]
    required = {
        name: _example(field) for name, field in model.model_fields.items() if field.is_required()
    }
    return required | {name: value for values in needed for name, value in values.items()}


def _example(field: FieldInfo) -> Any:
    return next(iter(_examples(field.annotation)))[1]


def _examples(annotation: Any) -> Iterator[tuple[Path, Any, type[pydantic.BaseModel] | None]]:
    """Values that an annotation takes: where a model stands in them, the value, the model."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield (), minimal(annotation), annotation
    elif origin is Annotated:
        yield from _examples(arguments[0])
    elif origin in (Union, types.UnionType):
        for each in arguments:
            yield from _examples(each)
    elif origin is Literal:
        yield (), arguments[0], None
    elif origin is tuple and arguments[-1] is not ...:
        yield (), [next(_examples(each))[1] for each in arguments], None
    elif origin in (list, tuple):
        for path, value, model in _examples(arguments[0]):
            yield (0, *path), [value], model
    elif origin is dict:
        for path, value, model in _examples(arguments[1]):
            yield ("a", *path), {"a": value}, model
    elif annotation is type(None):
        yield (), None, None
    else:
        yield (), {str: "a", bool: False, int: 1, float: 1.0}.get(annotation, "a"), None


def places(section: str) -> Iterator[Place]:
    """Every key of a section, those of nested models and of each member of a union included."""
    model = params.config_class(section)
    yield from _below(section, (), model, minimal(model))


def _below(
    section: str, path: Path, model: type[pydantic.BaseModel], value: Any
) -> Iterator[Place]:
    """``value`` is of the whole section, with an example of the model at ``path``."""
    is_root = issubclass(model, pydantic.RootModel)
    for name, field in model.model_fields.items():
        here = path if is_root else (*path, name)
        if not is_root:
            yield Place(section, here, field, model, value)
        for inner, example, below in _examples(field.annotation):
            if below is not None:
                yield from _below(section, (*here, *inner), below, put(value, here, example))


def accepts(annotation: Any, kind: type) -> bool:
    """Whether a value of a kind of JSON may be right: False is certain, True is not."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return accepts(arguments[0], kind)
    if origin in (Union, types.UnionType):
        return any(accepts(each, kind) for each in arguments)
    if origin is Literal:
        return any(type(each) is kind for each in arguments)
    if annotation is Any:
        return True
    if origin in (list, tuple):
        return kind is list
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, dict)):
        return kind is dict
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return kind is dict
    if annotation is float:
        return kind in (int, float)
    if annotation in (int, bool, str):
        return kind is annotation
    if annotation is type(None):
        return kind is type(None)
    return kind is str  # a path


def models() -> set[type[pydantic.BaseModel]]:
    """All models that stand somewhere in params.yaml."""
    return {place.owner for section in SECTIONS for place in places(section)}

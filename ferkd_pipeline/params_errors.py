"""What pydantic found wrong, said in one line a problem: key = value: what is allowed."""

import difflib
import json
import types
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic_core import ErrorDetails

from stages.compare.config import ONLINE, STORE, TRUTH

BUILT_IN_ARMS = (TRUTH, STORE, ONLINE)

_MAX_SHOWN = 60  # characters of a value
_MAX_SAID = 400  # characters of a sentence that has values in it

_LARGEST = 2**64
_MAX_TEXT = 4096  # bytes, as of a path
_MAX_NAME = 255  # bytes between two slashes, as of the name of a file


def unknown_sections(raw: Mapping[str, object], known: tuple[str, ...]) -> list[str]:
    """Return a line for each section that no stage owns."""
    return [
        f"{_key(name)}: unknown section; {_hint(name, known)}" for name in raw if name not in known
    ]


def lines(
    error: pydantic.ValidationError, section: str, value: object, model: type[pydantic.BaseModel]
) -> list[str]:
    """Return a line for each problem of a section whose text was `value`."""
    found = [_line(detail, section, value, model) for detail in error.errors(include_url=False)]
    return list(dict.fromkeys(found))


def unknown_calibrations(sections: Mapping[str, Any]) -> list[str]:
    """Return a line for each calibration that is asked for and not named in `calibrate`."""
    names = tuple(sections["calibrate"].root)
    problems = []
    train, compare = sections.get("train"), sections.get("compare")
    if train is not None and train.calibration not in (None, *names):
        allowed = (*names, "null")
        problems.append(_no_calibration("train.calibration", train.calibration, allowed))
    if compare is not None:
        problems += [
            f"calibrate.{name}: compare.arms has this name for an arm of its own; choose another"
            for name in names
            if name in BUILT_IN_ARMS and name in compare.arms
        ]
        allowed = (*BUILT_IN_ARMS, *names)
        problems += [
            _no_calibration(f"compare.arms[{place}]", arm, allowed)
            for place, arm in enumerate(compare.arms)
            if arm not in allowed
        ]
    return problems


def unknown_scores(sections: Mapping[str, Any]) -> list[str]:
    """Return a line for each score that a calibration selects by and `score` does not name."""
    allowed = tuple(sections["score"].root)
    return [
        f"calibrate.{name}[{place}].scores = {_shown(step.scores)}: the section score names no "
        f"such scores; {_hint(step.scores, allowed)}"
        for name, steps in sections["calibrate"].root.items()
        for place, step in enumerate(steps)
        if step.step == "select" and step.scores not in allowed
    ]


def _no_calibration(key: str, name: str, allowed: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"{key} = {_shown(name)}: the section calibrate names no such calibration; "
        f"{hint}allowed: {', '.join(allowed)}"
    )


def odd_values(value: object, section: str) -> list[str]:
    """Return a line for each value that no key can have, and each key that is not text."""
    if isinstance(value, list):
        found = [odd_values(item, f"{section}[{place}]") for place, item in enumerate(value)]
    elif isinstance(value, dict):
        found = [_odd_item(key, item, section) for key, item in value.items()]
    else:
        why = _why_odd(value)
        return [] if why is None else [f"{section} = {_shown(value)}: {why}"]
    return [line for lines_of_one in found for line in lines_of_one]


def _odd_item(key: object, item: object, section: str) -> list[str]:
    if not isinstance(key, str):
        return [f"{section}: the key {_shown(key)} must be text; put it in quotes"]
    why = _why_odd(key)
    if why is not None:
        return [f"{section}: the key {_shown(key)} {why}"]
    return odd_values(item, f"{section}.{_key(key)}")


def _why_odd(value: object) -> str | None:
    """What would end in an error without a name: in a path, in a message, or as a number."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"must be within -{_LARGEST} and {_LARGEST}"
    if not isinstance(value, str):
        return None
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in value):
        return "must have no control characters and no line breaks"
    if len(value.encode()) > _MAX_TEXT:
        return f"must have at most {_MAX_TEXT} bytes"
    if any(len(part.encode()) > _MAX_NAME for part in value.split("/")):
        return f"must have at most {_MAX_NAME} bytes between slashes"
    return None


def _line(
    detail: ErrorDetails, section: str, value: object, model: type[pydantic.BaseModel]
) -> str:
    place = _place(detail, value)
    key = _dotted(section, place)
    if detail["type"] == "extra_forbidden":
        return f"{key}: {_unknown(str(place[-1]), model, place[:-1], value)}"
    if detail["type"] == "missing":
        return f"{key}: missing, and it has no default"
    if detail["type"] == "value_error" and isinstance(detail["input"], dict):
        return f"{key}: {_allowed(detail)}"  # about several keys together: the message names them
    return f"{key} = {_shown(detail['input'])}: {_allowed(detail)}"


def _place(detail: ErrorDetails, value: Any) -> list[str | int]:
    """Keep of pydantic's location what stands in the file: it also names members of unions."""
    place: list[str | int] = []
    last = len(detail["loc"]) - 1
    for depth, step in enumerate(detail["loc"]):
        if _holds(value, step):
            value = value[step]
        elif not (depth == last and detail["type"] == "missing"):
            continue
        place.append(step)
    return place


def _holds(value: object, step: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, dict) and step in value


def _dotted(section: str, place: Iterable[str | int]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{_key(step)}" for step in place)
    return section + "".join(steps)


def _key(name: str) -> str:
    """A key in a message: in quotes where it would break the line."""
    return name if name.isprintable() and len(name) <= _MAX_SHOWN else _shown(name)


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    if not text.isprintable():
        text = ascii(text)[1:-1]
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _cut(sentence: str) -> str:
    """Shorten in the middle: what is allowed stands at the end."""
    half = _MAX_SAID // 2
    return sentence if len(sentence) <= _MAX_SAID else f"{sentence[:half]} ... {sentence[-half:]}"


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(known) or 'none'}"


_SENTENCES = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "too_short": "must have at least {min_length} values",
    "too_long": "must have at most {max_length} values",
    "string_too_short": "must have at least {min_length} characters",
    "finite_number": "must be a finite number",
    "dict_type": "must be a mapping of keys",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "path_type": "must be a path",
    "union_tag_invalid": "must name one of {expected_tags} in {discriminator}",
    "union_tag_not_found": "must have the key {discriminator}",
}
_WHOLE = ("int_type", "int_parsing", "int_from_float", "int_parsing_size")
_SENTENCES |= dict.fromkeys(_WHOLE, "must be a whole number")
_SENTENCES |= dict.fromkeys(("float_type", "float_parsing"), "must be a number")
_SENTENCES |= dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false")


def _allowed(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "value_error":
        return _cut(str(context["error"]))
    sentence = _SENTENCES.get(detail["type"])
    if sentence is None:
        message = detail["msg"]
        return message[:1].lower() + message[1:]
    spelled = {
        key: f"{item:g}" if isinstance(item, float) else item for key, item in context.items()
    }
    return sentence.format(**spelled)


def _unknown(
    key: str, model: type[pydantic.BaseModel], place: Iterable[str | int], value: Any
) -> str:
    """Say what is wrong with a key that must not stand at `place` of `value`."""
    models = {model}
    chosen = models
    for step in place:
        models = {below for owner in chosen for below in _below(owner, step)}
        value = value[step]
        chosen = {each for each in models if _is_chosen(each, value)}
    if key in _fields(models - chosen):
        tags = (f"{name} {value[name]}" for each in chosen for name in _tags(each))
        return f"{next(tags)} has no such key; leave it out"
    return f"unknown key; {_hint(key, sorted(_fields(chosen)))}"


def _below(owner: type[pydantic.BaseModel], step: str | int) -> Iterable[type[pydantic.BaseModel]]:
    """Return the models that a step into a model may lead to."""
    if isinstance(step, str) and step in owner.model_fields:
        return _models(owner.model_fields[step].annotation)
    if issubclass(owner, pydantic.RootModel):
        return _models(owner.model_fields["root"].annotation)
    return [owner]  # an index into a list of this model


def _is_chosen(model: type[pydantic.BaseModel], value: object) -> bool:
    """Return whether a value may be of this model, by what tells members of a union apart."""
    if not isinstance(value, Mapping):
        return True
    return all(value.get(name) in allowed for name, allowed in _tags(model).items())


def _tags(model: type[pydantic.BaseModel]) -> dict[str, tuple[Any, ...]]:
    """Return the fields that must be given and have one allowed value, with it."""
    return {
        name: get_args(field.annotation)
        for name, field in model.model_fields.items()
        if field.is_required()
        and get_origin(field.annotation) is Literal
        and len(get_args(field.annotation)) == 1
    }


def _fields(models: Iterable[type[pydantic.BaseModel]]) -> set[str]:
    return {name for each in models for name in each.model_fields if name != "root"}


def _models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    """Yield the models in an annotation, such as both of `list[A | B]`."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, types.UnionType, list, tuple, dict):
        for argument in get_args(annotation):
            yield from _models(argument)

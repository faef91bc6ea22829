"""params.yaml, read and checked as a whole before any work starts.

Each section's class is the `Config` of its stage. Paths in params.yaml are relative to the folder
that a command runs in, as everywhere in DVC; that is normally the folder of params.yaml.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import BeforeValidator, Field

from ferkd_pipeline import params_errors, stage_table, yaml_file
from store.errors import ParamsError

Section = TypeVar("Section", bound=pydantic.BaseModel)


def _not_empty(value: object) -> object:
    if value == "":
        raise ValueError("must have at least 1 characters")  # as of other text
    return value


class StoreConfig(pydantic.BaseModel):
    """The `store` section: where labels lie and how they are cut."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    root: Annotated[Path, BeforeValidator(_not_empty)] = Path("labels")
    """Folder of the label store. `.ferkd/` beside it holds resumable work and the training view
    (`$FERKD_CACHE`, where set, holds the view)."""
    num_shards: int = Field(4, ge=1, le=99999)
    """S, shards that the images are cut into; fixed by the data, not by the number of workers."""


@dataclass(frozen=True, slots=True)
class Params:
    """A params.yaml in which every section was found right."""

    path: Path
    """The file, as named on the command line."""
    store: StoreConfig
    """The `store` section, or its defaults."""
    sections: Mapping[str, pydantic.BaseModel]
    """Each stage's section, as an instance of that stage's `Config`, by name of the stage."""

    def section(self, name: str) -> pydantic.BaseModel:
        """Return a stage's section.

        Raises:
            ParamsError: params.yaml has none.
        """
        if name not in self.sections:
            raise ParamsError(
                f"{self.path} has no section `{name}`, which stage {name} needs; "
                f"sections in it: {', '.join(self.sections) or 'none'}"
            )
        return self.sections[name]

    def typed(self, name: str, config: type[Section]) -> Section:
        """Return a stage's section as what it is, for callers that hold the stage's `Config`.

        Raises:
            ParamsError: params.yaml has none.
        """
        value = self.section(name)
        assert isinstance(value, config), f"section {name} is a {type(value)}, not a {config}"
        return value


def load(path: Path) -> Params:
    """Read a params.yaml and check all of it.

    Raises:
        ParamsError: one line for each thing that is wrong, naming file, key, value and what is
            allowed.
    """
    return check(path, yaml_file.read_mapping(path))


def check(path: Path, raw: Mapping[str, Any]) -> Params:
    """Check what stands in a params.yaml; see `load`. `path` is only named, not read."""
    problems = params_errors.unknown_sections(raw, ("store", *stage_table.STAGE_NAMES))
    checked: dict[str, pydantic.BaseModel] = {}
    for name in ("store", *stage_table.STAGE_NAMES):
        if name in raw:
            value = {} if raw[name] is None else raw[name]
            found, config = _read_section(name, value)
            problems += found
            if config is not None:
                checked[name] = config
    if "calibrate" in checked:  # without it, labels may be of a store that others calibrated
        problems += params_errors.unknown_calibrations(checked)
    if {"calibrate", "score"} <= checked.keys():
        problems += params_errors.unknown_scores(checked)
    if problems:
        raise ParamsError("\n".join(f"{path}: {problem}" for problem in problems))
    store = checked.pop("store", StoreConfig())
    assert isinstance(store, StoreConfig)
    return Params(path, store, checked)


def _read_section(name: str, value: Any) -> tuple[list[str], pydantic.BaseModel | None]:
    """Check one section; return what is wrong with it, else its config.

    It is read as JSON: there pydantic can be strict about numbers, text and booleans and still
    take a list where the config holds a tuple, and text for a path.
    """
    try:
        text = json.dumps(value)
        odd = params_errors.odd_values(value, name)
        return odd, None if odd else config_class(name).model_validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        return params_errors.lines(error, name, value, config_class(name)), None
    except (TypeError, ValueError) as error:  # a YAML tag such as !!set, or an alias of itself
        return [f"{name}: allowed are numbers, text, lists and mappings ({error})"], None


def config_class(name: str) -> type[pydantic.BaseModel]:
    """Return the class of a section: `store`, or a stage's name."""
    if name == "store":
        return StoreConfig
    module = importlib.import_module(f"{stage_table.find(name).module}.config")
    config: type[pydantic.BaseModel] = module.Config
    return config

"""Code that a model's card names is run only where params.yaml names it, too."""

from collections.abc import Iterator
from pathlib import Path

import pydantic

from ferkd_pipeline.params import Params
from stages.shared.model_card import check_code
from stages.shared.model_config import ModelConfig


def check(folder: Path, params: Params | None) -> None:
    """Refuse a saved model whose card names a function that no model in params.yaml does.

    Raises:
        DataError: names the function; or the card cannot be read.
    """
    sections = () if params is None else params.sections.values()
    check_code(folder, {model.name for section in sections for model in networks(section)})


def networks(value: object) -> Iterator[ModelConfig]:
    """Every network that a section of params.yaml names, however deep."""
    if isinstance(value, ModelConfig):
        yield value
    elif isinstance(value, pydantic.BaseModel):
        for name in type(value).model_fields:
            yield from networks(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from networks(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from networks(each)

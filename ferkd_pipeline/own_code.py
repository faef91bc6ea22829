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
    check_code(folder, {model.name for section in sections for model in _models(section)})


def _models(value: object) -> Iterator[ModelConfig]:
    if isinstance(value, ModelConfig):
        yield value
    elif isinstance(value, pydantic.BaseModel):
        for name in type(value).model_fields:
            yield from _models(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from _models(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _models(each)

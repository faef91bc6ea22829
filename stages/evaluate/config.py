"""Parameters of the stage evaluate."""

from typing import ClassVar, Literal

import pydantic
from pydantic import Field


class Config(pydantic.BaseModel):
    """Which sets a trained network is measured on, and how their images become its input."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    NOT_KEYED: ClassVar[frozenset[str]] = frozenset({"num_workers"})
    """Fields that cannot change a byte of the result."""

    sets: dict[str, str] = Field(min_length=1)
    """Folders of class folders, by the names that reports use."""

    input_size: tuple[int, int] | None = None
    """Height and width of the network's input; none: as it was trained."""

    crop_ratio: float | None = Field(default=None, gt=0, le=1)
    """Share of the resized image's side that the central crop has; none: the network's own."""

    batch_size: int = Field(default=256, ge=1)
    """Images a forward."""

    num_workers: int = Field(default=0, ge=0)
    """Processes that decode images; 0: the evaluating process does it itself."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes a GPU if there is one."""

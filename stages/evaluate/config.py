"""Parameters of the stage evaluate.

evaluate:
  sets:
    val: imagenet/val
    real: {folder: imagenet/val, real: imagenet/real.json}
    v2: {folder: imagenetv2-matched-frequency-format-val, classes: numbers, crop_ratio: 1.0}
"""

from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Discriminator, Field, Tag

from stages.shared.model_config import MOST_PIXELS

ClassNaming = Literal["auto", "names", "numbers"]


class _Pixels(pydantic.BaseModel):
    """How images become the network's input."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    input_size: tuple[int, int] | None = None
    """Height and width of the network's input, one number stands for both; none: of a set as of the
    stage, of the stage as the network was trained."""

    crop_ratio: float | None = Field(default=None, ge=0.01, le=1)
    """Share of the resized image's side that the central crop has; none: of a set as of the stage,
    of the stage the network's own."""

    @pydantic.field_validator("input_size", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            return (value, value)
        return tuple(value) if isinstance(value, list) else value  # strict: no list for a tuple

    @pydantic.model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.input_size is not None and not all(1 <= v <= MOST_PIXELS for v in self.input_size):
            raise ValueError(f"input_size is {list(self.input_size)}, allowed: 1 to {MOST_PIXELS}")
        return self


class ImageSet(_Pixels):
    """A set of images that needs more than the name of its folder."""

    folder: str = Field(min_length=1)
    """Folder of class folders."""

    classes: ClassNaming = "auto"
    """What class folders are named by: names (those of the training), numbers (places in the order
    of the training's classes, from 0 on: ImageNetV2), or auto: numbers where no folder has the
    name of a class and all of them are numbers of classes."""

    real: str | None = Field(default=None, min_length=1)
    """JSON file of several labels an image: ImageNet-ReaL's real.json, or a mapping from file names
    to lists of class numbers. An image is right where any of its labels is predicted; images
    without labels do not count. none: the class of the folder is the label."""


def _spelling(value: Any) -> str:
    return "mapping" if isinstance(value, dict | ImageSet) else "text"


NamedSet = Annotated[
    Annotated[str, Tag("text")] | Annotated[ImageSet, Tag("mapping")], Discriminator(_spelling)
]


class Config(_Pixels):
    """Which sets a trained network is measured on, and how their images become its input."""

    NOT_KEYED: ClassVar[frozenset[str]] = frozenset({"num_workers"})
    """Fields that cannot change a byte of the result."""

    sets: dict[str, NamedSet] = Field(min_length=1)
    """Folders of class folders, by the names that reports use; a mapping (folder, classes, real,
    input_size, crop_ratio) where the folder alone does not say it."""

    batch_size: int = Field(default=256, ge=1, le=65536)
    """Images a forward."""

    num_workers: int = Field(default=0, ge=0, le=256)
    """Processes that decode images; 0: the evaluating process does it itself."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto takes a GPU if there is one."""

    def image_sets(self) -> dict[str, ImageSet]:
        """Return all sets as mappings, in their order."""
        return {
            name: ImageSet(folder=each) if isinstance(each, str) else each
            for name, each in self.sets.items()
        }

    def folders(self) -> dict[str, str]:
        """Return the folder of each set, by name."""
        return {name: each.folder for name, each in self.image_sets().items()}

    def label_files(self) -> dict[str, str]:
        """Return the JSON file of labels of each set that has one, by name."""
        return {
            name: each.real for name, each in self.image_sets().items() if each.real is not None
        }

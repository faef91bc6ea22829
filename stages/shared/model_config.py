"""How a model is named in params.yaml, and what it wants its pixels to be. No torch here."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import pydantic
from pydantic import Field

Interpolation = Literal["bilinear", "bicubic"]
CropMode = Literal["center", "squash"]
Triple = tuple[float, float, float]

Library = Literal["timm", "torchvision", "own"]
"""Where a model comes from; ``own`` is a function of the user's."""

MOST_PIXELS = 16384
"""Height or width of a network's input."""

TORCHVISION_PREFIX = "torchvision:"

OWN_KWARGS: dict[Library, frozenset[str]] = {
    "timm": frozenset(
        {
            "cache_dir",
            "checkpoint_path",
            "features_only",
            "in_chans",
            "num_classes",
            "pretrained",
            "pretrained_cfg",
            "pretrained_cfg_overlay",
        }
    ),
    "torchvision": frozenset({"num_classes", "pretrained", "progress", "weights"}),
    "own": frozenset({"num_classes"}),
}
"""Arguments of builders that are not the user's: we set them, or they would unpickle."""

_OWN_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def library_of(name: str) -> Library:
    """Return where the model of that name comes from; what has no other form is timm's."""
    if name.startswith(TORCHVISION_PREFIX):
        return "torchvision"
    return "own" if _OWN_NAME.fullmatch(name) else "timm"


class ModelConfig(pydantic.BaseModel):
    """A model: which architecture, which weights, which pixels.

    Fields left null follow the model's card (weights that this tool saved), then what its library
    says of the model: timm's pretrained configuration, the transforms of torchvision's weights,
    ``pretrained_cfg`` or ``default_cfg`` of one's own module.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=False, use_attribute_docstrings=True
    )

    name: str = Field(min_length=1)
    """Name in timm, with or without a tag of pretrained weights (resnet50, resnet50.a1_in1k), in
    torchvision (torchvision:resnet50), or a function of one's own (package.module:function, found
    from the working folder too), called with num_classes and model_kwargs."""

    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of what builds the model, such as drop_path_rate or img_size in timm."""

    pretrained: bool = False
    """Start from timm's weights, or torchvision's default ones, downloaded where they are not in
    its cache."""

    weights: str | None = Field(default=None, min_length=1)
    """Start from a local file (.safetensors, or a .pth of tensors only) or a saved model folder."""

    new_classifier: bool = False
    """Where the weights have another number of classes, start the classifier anew instead of
    refusing. For students that are fine-tuned; never for a teacher."""

    input_size: tuple[int, int] | None = None
    """Height and width of the input; one number stands for both."""

    interpolation: Interpolation | None = None
    """How crops are resized."""

    mean: Triple | None = None
    """Mean of each channel, of values in 0 to 1."""

    std: Triple | None = None
    """Standard deviation of each channel, of values in 0 to 1."""

    crop_ratio: float | None = Field(default=None, ge=0.01, le=1)
    """Share of the resized image's side that evaluation keeps."""

    crop_mode: CropMode | None = None
    """How evaluation resizes: `center` keeps the aspect ratio, `squash` does not."""

    @pydantic.field_validator("input_size", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        if isinstance(value, int):
            return (value, value)
        return tuple(value) if isinstance(value, list) else value  # strict: no list for a tuple

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights are both given, allowed: one of them")
        if self.pretrained and self.library == "own":
            raise ValueError(
                f"pretrained is true, which {self.name} cannot have, allowed: weights of a file"
            )
        taken = sorted(OWN_KWARGS[self.library] & self.model_kwargs.keys())
        if taken:
            raise ValueError(f"model_kwargs has {taken[0]}, which may not be set there")
        if self.input_size is not None and not all(1 <= v <= MOST_PIXELS for v in self.input_size):
            raise ValueError(f"input_size is {self.input_size}, allowed: 1 to {MOST_PIXELS}")
        if self.std is not None and not all(v > 0 and math.isfinite(v) for v in self.std):
            raise ValueError(f"std is {self.std}, allowed: finite numbers above 0")
        if self.mean is not None and not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean is {self.mean}, allowed: finite numbers")
        return self

    @property
    def library(self) -> Library:
        """Where the model comes from."""
        return library_of(self.name)


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """The pixels that a model wants."""

    size: tuple[int, int]
    """Height and width."""

    interpolation: Interpolation
    """How crops are resized; always antialiased."""

    mean: Triple
    """Of each channel, of values in 0 to 1."""

    std: Triple
    """Of each channel, of values in 0 to 1."""

    crop_ratio: float
    """Share of the resized image's side that evaluation keeps."""

    crop_mode: CropMode = "center"
    """How evaluation resizes."""

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, for a card or a key."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = {
            name: tuple(item) if isinstance(item, list) else item for name, item in value.items()
        }
        return cls(**fields)

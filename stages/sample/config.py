"""Parameters of the stage sample."""

from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from stages.sample.augment_config import Augment
from stages.sample.mix_config import Mix

Range = tuple[float, float]


class Config(BaseModel):
    """How the crops of every image are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    NOT_KEYED: ClassVar[frozenset[str]] = frozenset()

    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of boxes and flips."""
    num_crops: int = Field(200, ge=1, le=32767)
    """M, crops an image. Raising it keeps the crops that exist."""
    kind: Literal["random_resized_crop", "random_crop"] = "random_resized_crop"
    """Random area and ratio, resized to the model's size; or a fixed size out of a padded image."""
    scale: Range = (0.08, 1.0)
    """random_resized_crop: smallest and largest area, as a share of the image's."""
    ratio: Range = (3 / 4, 4 / 3)
    """random_resized_crop: smallest and largest width / height."""
    size: int | None = Field(None, ge=1, le=16384)
    """random_crop: side of the crop, pixels."""
    padding: int = Field(0, ge=0, le=16384)
    """random_crop: pixels of black around the image; boxes may leave the image."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability that a crop is mirrored."""
    augment: Augment | None = None
    """What else is done to the pixels of a crop, recorded with it: teacher and student both see
    the crop so. None: nothing."""

    mix: Mix | None = None
    """Whether a crop is mixed with one of another image before the teacher sees it, and recorded
    so: the teacher labels the mixture. None: no crop is."""

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Nothing recorded is no parameter: crops without it keep the key that they always had."""
        dumped: dict[str, Any] = handler(self)
        absent = {name for name in ("augment", "mix") if getattr(self, name) is None}
        return {name: value for name, value in dumped.items() if name not in absent}

    @model_validator(mode="after")
    def _ranges(self) -> "Config":
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must satisfy 0 < min <= max <= 1, not {list(self.scale)}")
        if not 0.001 <= self.ratio[0] <= self.ratio[1] <= 1000:
            raise ValueError(
                f"ratio must satisfy 0.001 <= min <= max <= 1000, not {list(self.ratio)}"
            )
        if self.kind == "random_crop" and self.size is None:
            raise ValueError("kind random_crop needs size")
        # A parameter without effect would be part of the key, and change it for nothing.
        others = ("size", "padding") if self.kind == "random_resized_crop" else ("scale", "ratio")
        for name in others:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with kind {self.kind}; leave it out")
        return self

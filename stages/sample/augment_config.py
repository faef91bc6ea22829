"""Parameters of recorded augmentation: what is done to the pixels of a crop before the teacher."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _around_one(value: Any) -> Any:
    """A number b stands for factors from 1 - b to 1 + b, as in torchvision's ColorJitter."""
    return (max(0.0, 1 - value), 1 + value) if _is_number(value) else value


def _around_zero(value: Any) -> Any:
    return (-value, value) if _is_number(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


Factors = Annotated[tuple[float, float], BeforeValidator(_around_one)]
Turns = Annotated[tuple[float, float], BeforeValidator(_around_zero)]


class ColourJitter(BaseModel):
    """Brightness, contrast, saturation and hue, in an order that is drawn for each crop."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    brightness: Factors | None = None
    """Smallest and largest factor; 0.4 stands for [0.6, 1.4]. None: brightness stays."""
    contrast: Factors | None = None
    """Likewise."""
    saturation: Factors | None = None
    """Likewise."""
    hue: Turns | None = None
    """Smallest and largest turn of the colour circle, within -0.5 to 0.5; 0.1: [-0.1, 0.1]."""
    probability: float = Field(1.0, gt=0, le=1)
    """Share of the crops that are changed at all."""

    @model_validator(mode="after")
    def _check_ranges(self) -> "ColourJitter":
        limits = {name: 0.0 for name in ("brightness", "contrast", "saturation")} | {"hue": -0.5}
        given = {name: getattr(self, name) for name in limits}
        if not any(given.values()):
            raise ValueError(f"nothing is changed; give one of {', '.join(limits)}")
        for name, found in given.items():
            highest = 0.5 if name == "hue" else 1000.0
            if found is not None and not limits[name] <= found[0] <= found[1] <= highest:
                raise ValueError(
                    f"{name} is {list(found)}, allowed: "
                    f"{limits[name]:g} <= smallest <= largest <= {highest:g}"
                )
        return self


class RandAugment(BaseModel):
    """RandAugment (Cubuk et al. 2020) with the operations and magnitudes of torchvision."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    num_ops: int = Field(2, ge=1, le=8)
    """Operations a crop, one after the other, each drawn out of 14."""
    magnitude: float = Field(9.0, ge=0, le=30)
    """How strong they are: 0 to 30."""
    magnitude_std: float = Field(0.0, ge=0, le=30)
    """Standard deviation of the magnitude, drawn for each operation and cut to 0 to 30."""


class Augment(BaseModel):
    """What is done to the pixels of each crop: drawn once, recorded, and replayed ever after."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rand_augment: RandAugment | None = None
    """Geometry and colour; acts first."""
    colour_jitter: ColourJitter | None = None
    """Colour; acts after it."""

    @model_validator(mode="after")
    def _check_any(self) -> "Augment":
        if self.rand_augment is None and self.colour_jitter is None:
            raise ValueError("nothing is given; give rand_augment or colour_jitter, or none of it")
        return self

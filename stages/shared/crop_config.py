"""Parameters of fresh crops, for networks that are trained without a store. No torch here."""

from typing import Literal, Self

import pydantic
from pydantic import Field

Range = tuple[float, float]


class CropConfig(pydantic.BaseModel):
    """How crops are drawn; the fields that the sections teacher and score.NAME.proxy share."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["random_resized_crop", "random_crop"] = "random_resized_crop"
    """Random area and ratio, resized to the network's size; or a fixed size out of a padded
    image."""

    scale: Range = (0.08, 1.0)
    """random_resized_crop: smallest and largest area, as a share of the image's."""

    ratio: Range = (3 / 4, 4 / 3)
    """random_resized_crop: smallest and largest width / height."""

    size: int | None = Field(default=None, ge=1, le=16384)
    """random_crop: side of the crop, pixels."""

    padding: int = Field(default=0, ge=0, le=16384)
    """random_crop: pixels that a crop may leave the image by, on each side."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability that a crop is mirrored."""

    @pydantic.model_validator(mode="after")
    def _check_crops(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {list(self.scale)}, allowed: 0 < smallest <= largest <= 1")
        if not 0.001 <= self.ratio[0] <= self.ratio[1] <= 1000:
            raise ValueError(
                f"ratio is {list(self.ratio)}, allowed: 0.001 <= smallest <= largest <= 1000"
            )
        if self.kind == "random_crop" and self.size is None:
            raise ValueError("size is missing, needed with kind random_crop")
        return self

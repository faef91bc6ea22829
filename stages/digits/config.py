"""The parameters of the digits stage: what a cluttered digit looks like and how many there are."""

import math
from typing import Self

import pydantic
from pydantic import Field

NUM_DIGITS = 1797
"""Handwritten digits that scikit-learn bundles."""

NUM_CLASSES = 10
"""Classes of digits, 0 to 9."""

GLYPH_SIZE = 8
"""Height and width of a bundled digit, in its own pixels."""


class Config(pydantic.BaseModel):
    """The `digits` section of params.yaml; sizes are pixels of the canvas unless said."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=False, use_attribute_docstrings=True
    )

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the split and of every image."""

    canvas: int = Field(default=48, ge=16, le=256)
    """Height and width of an image."""

    num_train: int = Field(default=1200, ge=50, le=NUM_DIGITS)
    """Handwritten digits in the training split."""

    num_val: int = Field(default=200, ge=50, le=NUM_DIGITS)
    """Handwritten digits in the validation split: the one that choices are made on."""

    num_test: int = Field(default=397, ge=50, le=NUM_DIGITS)
    """Handwritten digits in the test split: never used to choose anything."""

    renders_train: int = Field(default=5, ge=1, le=100)
    """Images of each training digit, each with its own background, clutter and placement."""

    renders_val: int = Field(default=5, ge=1, le=100)
    """Images of each validation digit. One would leave 200 images and a standard error of 3.5
    points at 60 %; five average the luck of clutter and placement out, for a second of work."""

    renders_test: int = Field(default=5, ge=1, le=100)
    """Images of each test digit; the same number as in val, so that both read alike."""

    num_fragments: int = Field(default=5, ge=0, le=50)
    """Fragments of other digits of the same split on every canvas."""

    fragment_min: int = Field(default=3, ge=1, le=GLYPH_SIZE)
    """Smallest side of a fragment, in pixels of the 8x8 handwriting; drawn at digit scale."""

    fragment_max: int = Field(default=5, ge=1, le=GLYPH_SIZE)
    """Largest side of a fragment, inclusive, in pixels of the 8x8 handwriting."""

    own_class_clutter: float = Field(default=0.8, ge=0, le=1)
    """Probability that a fragment comes from the image's own class. High values make the context
    informative, as it is in photographs; 0.1 would make it say nothing."""

    digit_min: int = Field(default=20, ge=8, le=256)
    """Smallest height and width of a digit before its rotation."""

    digit_max: int = Field(default=32, ge=8, le=256)
    """Largest height and width of a digit before its rotation, inclusive."""

    rotation: float = Field(default=0.25, ge=0, le=math.pi / 4)
    """Largest rotation either way, in radians."""

    jpeg_quality: int = Field(default=90, ge=1, le=95)
    """Quality of the JPEG files, on Pillow's scale."""

    png_every: int = Field(default=3, ge=1, le=10**9)
    """One image in so many is a PNG, the others are JPEG: both decoders get work."""

    wrong_labels: float = Field(default=0.0, ge=0, le=1)
    """Share of the training images, to the nearest image, that lie in the folder of a class drawn
    evenly from the nine wrong ones. Above 0, wrong_labels.csv beside the splits lists them. The
    pixels are those of the digit written, val and test stay right, and a larger share keeps the
    wrong images of a smaller one."""

    @pydantic.model_validator(mode="after")
    def _check_together(self) -> Self:
        num_used = self.num_train + self.num_val + self.num_test
        if num_used > NUM_DIGITS:
            raise ValueError(
                f"num_train + num_val + num_test is {num_used}, allowed: at most {NUM_DIGITS}"
            )
        if self.fragment_min > self.fragment_max:
            raise ValueError(
                f"fragment_min is {self.fragment_min}, allowed: at most fragment_max "
                f"({self.fragment_max})"
            )
        if self.digit_min > self.digit_max:
            raise ValueError(
                f"digit_min is {self.digit_min}, allowed: at most digit_max ({self.digit_max})"
            )
        extent = self.digit_max * (math.cos(self.rotation) + math.sin(self.rotation))
        if math.ceil(extent) + 2 > self.canvas:
            raise ValueError(
                f"digit_max is {self.digit_max}: turned by {self.rotation} rad it needs "
                f"{math.ceil(extent) + 2} px, allowed: at most canvas ({self.canvas})"
            )
        return self

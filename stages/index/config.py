"""The parameters of the index stage: where the images are and which are too large."""

from typing import ClassVar

import pydantic
from pydantic import Field


class Config(pydantic.BaseModel):
    """The `index` section of params.yaml."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=False, use_attribute_docstrings=True
    )

    NOT_KEYED: ClassVar[frozenset[str]] = frozenset({"num_workers", "max_reject_share"})
    """Fields that cannot change a byte of the output."""

    images: str = Field(min_length=1)
    """Folder of training images, one folder a class: IMAGES/CLASS/NAME.jpg."""

    num_workers: int | None = Field(default=None, ge=1, le=1024)
    """Threads that read and decode; null: one for each processor this process may use."""

    max_pixels: int = Field(default=100_000_000, ge=1, le=178_956_970)
    """Images of more pixels are rejected before they are decoded. The default takes 300 MB
    decoded; the upper limit is the one that Pillow has of its own."""

    max_reject_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the image files that may be rejected; above it the stage stops instead of training
    on what is left. 1 never stops while one image is usable."""

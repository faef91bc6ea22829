"""Parameters of recorded mixing: which crops hold a part of another image."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Mix(BaseModel):
    """Mixup and CutMix that are drawn once, labelled by the teacher, and replayed ever after."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    mixup: float | None = Field(0.8, gt=0, le=1000)
    """Mixup: a crop's own share is drawn from Beta(alpha, alpha). None: no Mixup."""
    cutmix: float | None = Field(1.0, gt=0, le=1000)
    """CutMix: the share outside its box is drawn from Beta(alpha, alpha); a box that leaves the
    crop is clipped, and the share is then what is left. None: no CutMix."""
    probability: float = Field(1.0, gt=0, le=1)
    """Share of the crops that are mixed."""
    switch: float = Field(0.5, ge=0, le=1)
    """Share of CutMix among the mixed crops, where both are given."""
    crops_per_partner: int = Field(4, ge=1, le=32767)
    """Consecutive crops of an image that are mixed with one and the same other image, each with a
    box of its own. Infer decodes that image once for all of them: 1 is the most varied and the
    slowest."""

    @model_validator(mode="after")
    def _check_together(self) -> "Mix":
        if self.mixup is None and self.cutmix is None:
            raise ValueError("nothing is given; give mixup or cutmix, or no mix at all")
        has_switch = self.switch != type(self).model_fields["switch"].default
        if has_switch and None in (self.mixup, self.cutmix):
            raise ValueError("switch has no effect without both mixup and cutmix; leave it out")
        return self

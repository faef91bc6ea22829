"""Fields of how labels are compared with, and of what is done to crops. Imports pydantic only."""

import re
from typing import Literal

import pydantic
from pydantic import Field

MixName = Literal["none", "selfmix", "mixup", "cutmix", "mixup_cutmix"]
LossName = Literal["cross_entropy", "kl", "mse", "projection"]


_RAND_AUGMENT = re.compile(r"rand(-[a-z]+[0-9.]*)+")


class CropUseConfig(pydantic.BaseModel):
    """Loss, temperature, mixing and augmentation of a step's crops."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    temperature: float = Field(default=1.0, ge=1e-3, lt=1e6)
    """Temperature T of the student; must be the one that the labels were stored at."""

    truth_weight: float = Field(default=0.0, ge=0, le=1)
    """Weight of the ground truth's loss, 1 - lambda; the labels' loss has the rest."""

    loss: LossName = "cross_entropy"
    """How the student is compared with a label: cross_entropy; kl (cross-entropy less the label's
    entropy: the same gradients, and 0 where the student says what the label says); mse (logits
    without their mean, mean over classes; needs labels of every class, kind full or an online
    teacher, and temperature 1). The ground truth's part is cross-entropy with each of them."""

    mix: MixName = "none"
    """Which crops are mixed, with their labels: selfmix (a box of another crop of the same image;
    off where crops_per_image is 1), mixup (all pixels of a crop of another image), cutmix (a box of
    it), mixup_cutmix (one of the two in each step)."""

    mixup_alpha: float = Field(default=0.8, gt=0, le=1000)
    """Mixup: a crop's own share is drawn from Beta(alpha, alpha), once a step."""

    cutmix_alpha: float = Field(default=1.0, gt=0, le=1000)
    """Cutmix and selfmix: the share outside the box is drawn from Beta(alpha, alpha), once a step;
    a box that leaves the crop is clipped, and the share is then what is left."""

    mix_switch: float = Field(default=0.5, ge=0, le=1)
    """For mixup_cutmix: probability that a step takes cutmix."""

    mix_probability: float = Field(default=1.0, ge=0, le=1)
    """Probability that a step's crops are mixed."""

    temperature_on: Literal["both", "student"] = "both"
    """both: teacher and student are softened, and the labels' loss is multiplied by T^2; student:
    only the student is, as FKD's published code does (labels stored at temperature 1)."""

    projection_temperature: float = Field(default=0.2, ge=1e-3, lt=1e6)
    """For loss projection: the one temperature of teacher and student."""

    augment: str | None = None
    """RandAugment of the student's pixels in timm's spelling, such as rand-m9-mstd0.5-inc1: after
    the labelled crop, so the label does not know of it. none: the pixels that the teacher saw.
    What the store recorded (sample.augment) is replayed in any case."""

    erase_probability: float = Field(default=0.0, ge=0, le=1)
    """Probability that a rectangle of a crop is erased (Random Erasing, before mixing)."""

    erase_mode: Literal["const", "rand", "pixel"] = "pixel"
    """What an erased rectangle gets: 0, one random colour, or random pixels."""

    @pydantic.field_validator("augment")
    @classmethod
    def _check_spelling(cls, value: str | None) -> str | None:
        if value is not None and not _RAND_AUGMENT.fullmatch(value):
            raise ValueError(
                f"augment is {value!r}, allowed: RandAugment in timm's spelling, rand and then "
                "settings such as -m9 (magnitude), -n2 (operations), -mstd0.5, -inc1"
            )
        return value

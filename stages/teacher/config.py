"""Parameters of the stage teacher."""

from typing import Self

import pydantic

from stages.shared.crop_config import CropConfig
from stages.shared.training.config import LearnerConfig


class Config(CropConfig, LearnerConfig):
    """The teacher's network, its training, and the fresh crops that it is trained on."""

    @pydantic.model_validator(mode="after")
    def _check_temperature(self) -> Self:
        if self.temperature != 1:
            raise ValueError(
                f"temperature is {self.temperature}, allowed: 1, since nobody teaches the teacher"
            )
        if self.loss in ("mse", "projection"):
            raise ValueError(f"loss is {self.loss}, allowed: cross_entropy, kl")
        return self

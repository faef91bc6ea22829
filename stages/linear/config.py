"""Parameters of the stage linear."""

from typing import Self

import pydantic
from pydantic import Field

from stages.shared.crop_config import CropConfig
from stages.shared.model_config import ModelConfig
from stages.shared.training.config import LearnerConfig, TrainingConfig


class Config(CropConfig, TrainingConfig):
    """The training of the classifier, and the fresh crops that it is trained on.

    The network is the student that stage train wrote, so none is named here.
    """

    evaluation: str | None = Field(default=None, min_length=1)
    """Folder of class folders to measure accuracy on while training; none: not measured."""

    @pydantic.model_validator(mode="after")
    def _check_truth(self) -> Self:
        if self.temperature != 1:
            raise ValueError(
                f"temperature is {self.temperature}, allowed: 1, since no teacher has a part in it"
            )
        if self.loss in ("mse", "projection"):
            raise ValueError(f"loss is {self.loss}, allowed: cross_entropy, kl")
        return self

    def with_model(self, model: ModelConfig) -> LearnerConfig:
        """The same training of a network that is named."""
        fields = {
            name: getattr(self, name) for name in LearnerConfig.model_fields.keys() - {"model"}
        }
        return LearnerConfig(model=model, **fields)

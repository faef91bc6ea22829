"""Parameters of the stage train."""

from typing import Literal, Self

import pydantic

from stages.shared.training.config import LearnerConfig


class Config(LearnerConfig):
    """The student's network, its training, and which labels it learns from."""

    calibration: str | None = None
    """Name of the calibration whose labels are served; none: as the teacher gave them."""

    labels: Literal["store", "truth"] = "store"
    """store: soft labels; truth: the ground truth alone, on the very same crops (a baseline)."""

    @pydantic.model_validator(mode="after")
    def _check_labels(self) -> Self:
        if self.calibration is not None and self.temperature != 1:
            raise ValueError(
                f"temperature is {self.temperature}, allowed with a calibration "
                f"({self.calibration}): 1, since its labels mix teacher and ground truth"
            )
        if self.labels == "truth" and self.temperature != 1:
            raise ValueError(f"temperature is {self.temperature}, allowed with labels truth: 1")
        if self.labels == "truth" and self.loss == "mse":
            raise ValueError("loss is mse, allowed with labels truth: cross_entropy, kl")
        return self

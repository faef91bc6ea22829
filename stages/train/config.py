"""Parameters of the stage train."""

from typing import Any, Literal, Self

import pydantic
from pydantic import Field

from stages.shared.crop_config import CropConfig
from stages.shared.model_config import ModelConfig
from stages.shared.training.config import LearnerConfig


class Config(LearnerConfig):
    """The student's network, its training, and which labels it learns from."""

    calibration: str | None = Field(default=None, min_length=1)
    """Name of the calibration whose labels are served; none: as the teacher gave them."""

    labels: Literal["store", "truth", "online"] = "store"
    """store: soft labels; truth: the ground truth alone, on the very same crops; online: what
    online_teacher says of each step's crops, after they were mixed. The last two are baselines."""

    online_teacher: ModelConfig | None = None
    """The teacher that runs in every step: for labels online, and for compare's arm online."""

    crops: CropConfig | None = None
    """For labels truth and online: crops drawn anew in every pass, instead of the store's M."""

    @pydantic.model_validator(mode="after")
    def _check_labels(self) -> Self:
        if self.calibration is not None and self.labels != "store":
            raise ValueError(
                f"calibration is {self.calibration}, allowed with labels {self.labels}: null"
            )
        if self.calibration is not None and self.temperature != 1 and self._softens_labels:
            raise ValueError(
                f"temperature is {self.temperature}, allowed with a calibration "
                f"({self.calibration}): 1, since its labels mix teacher and ground truth"
            )
        if self.labels == "truth" and self.temperature != 1:
            raise ValueError(f"temperature is {self.temperature}, allowed with labels truth: 1")
        if self.labels == "truth" and self.loss in ("mse", "projection"):
            raise ValueError(f"loss is {self.loss}, allowed with labels truth: cross_entropy, kl")
        if self.labels == "online" and self.loss == "projection":
            raise ValueError("loss is projection, allowed with labels online: the others")
        if self.labels == "online" and self.online_teacher is None:
            raise ValueError("online_teacher is missing, needed with labels online")
        teacher = self.online_teacher
        if teacher is not None and not (teacher.pretrained or teacher.weights):
            raise ValueError(
                f"online_teacher is {teacher.name} of random weights, needed: weights, or "
                "pretrained: true"
            )
        if teacher is not None and teacher.new_classifier:
            raise ValueError("online_teacher.new_classifier is true, allowed for a teacher: false")
        if self.crops is not None and self.labels == "store":
            raise ValueError(
                "crops are given, allowed with labels truth and online only: stored labels are of "
                "the store's crops"
            )
        return self

    @pydantic.field_serializer("online_teacher")
    def _what_it_is(self, value: ModelConfig | None) -> dict[str, Any] | None:
        """Without the path of its weights, whose digest is in the key and in the card."""
        return None if value is None else value.model_dump(mode="json", exclude={"weights"})

    @property
    def _softens_labels(self) -> bool:
        return self.temperature_on == "both"

    @property
    def reads_store(self) -> bool:
        """Whether crops come from the label store."""
        return self.crops is None

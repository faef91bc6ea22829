"""How a network is trained: the fields that the teacher's and the students' sections share.

Imports pydantic only, so that checking parameters loads no torch.
"""

import math
from typing import ClassVar, Literal, Self

import pydantic
from pydantic import Field

from stages.shared.model_config import ModelConfig
from stages.shared.training.crop_use_config import CropUseConfig, LossName, MixName
from stages.shared.training.optimizer_config import (
    MOST_EPOCHS,
    MOST_STEPS,
    OptimizerConfig,
    ScheduleName,
)
from stages.shared.training.passes import Passes

__all__ = [
    "Device",
    "LearnerConfig",
    "LossName",
    "MixName",
    "Precision",
    "ScheduleName",
    "TrainingConfig",
]

Precision = Literal["float32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
Tracker = Literal["dvclive", "tensorboard"]


class TrainingConfig(OptimizerConfig, CropUseConfig):
    """Optimizer, schedule, loss and loader of one training; crops are what a batch counts."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    NOT_KEYED: ClassVar[frozenset[str]] = frozenset({"num_workers", "checkpoint_minutes", "track"})
    """Fields that cannot change a byte of the model."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the first weights, of the order of images, the choice of crops and their mixing."""

    batch_size: int = Field(default=128, ge=1, le=2**20)
    """Crops in a step, a multiple of crops_per_image."""

    crops_per_image: int = Field(default=4, ge=1, le=32767)
    """Crops of one image in a step (m). The image is decoded once for all of them, but a batch
    then holds fewer images: 1 learns best where batches are small."""

    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Length of the training in steps; give this or epochs."""

    epochs: float | None = Field(default=None, gt=0, le=MOST_EPOCHS)
    """Length of the training in epochs; in one epoch as many crops are seen as there are images,
    so a pass with crops_per_image = 4 counts as four."""

    accumulate: int = Field(default=1, ge=1, le=2**20)
    """Parts that each process computes a step in, one after the other, where a whole one does not
    fit into memory. The gradient stays the mean over the whole step."""

    sync_batch_norm: bool = False
    """Whether batch normalisation sees the crops of all processes; it never sees those of other
    parts (accumulate). Needs GPUs."""

    eval_every: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Steps between evaluations; none: only at the end."""

    num_workers: int = Field(default=0, ge=0, le=256)
    """Processes that decode images; 0: the training process does it itself."""

    resize: Literal["auto", "cpu", "device"] = "auto"
    """Where crops are resized: by the processes that decode images (cpu), or where the network is,
    from whole images that were sent there once (device); auto: device on a GPU."""

    checkpoint_minutes: float | None = Field(default=10.0, ge=0, le=1e6)
    """Time after which the training is saved, to be taken up there after a kill; 0: after every
    step, none: never."""

    track: tuple[Tracker, ...] = ()
    """Where the run can be watched while it trains: dvclive, tensorboard."""

    precision: Precision = "float32"
    """Of the forward and backward computation; weights stay float32."""

    device: Device = "auto"
    """Where to train: auto takes a GPU if there is one."""

    @pydantic.model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            given = "neither is" if self.steps is None else "both are"
            raise ValueError(f"{given} given, allowed: exactly one of steps and epochs")
        for unit, length, warmup in (
            ("steps", self.steps, self.warmup_steps),
            ("epochs", self.epochs, self.warmup_epochs),
        ):
            if length is not None and warmup is not None and 0 < length <= warmup:
                raise ValueError(f"warmup_{unit} is {warmup}, allowed: less than {unit} ({length})")
        if self.batch_size % self.crops_per_image:
            raise ValueError(
                f"batch_size is {self.batch_size}, allowed: a multiple of crops_per_image "
                f"({self.crops_per_image})"
            )
        if self.images_per_step % self.accumulate:
            raise ValueError(
                f"accumulate is {self.accumulate}, allowed: what divides the images of a step "
                f"({self.images_per_step})"
            )
        if self.loss in ("mse", "projection") and self.temperature != 1:
            raise ValueError(f"temperature is {self.temperature}, allowed with loss {self.loss}: 1")
        if self.loss == "projection" and self.truth_weight:
            raise ValueError(
                f"truth_weight is {self.truth_weight}, allowed with loss projection: 0"
            )
        if self.mix not in ("none", "selfmix") and self.images_per_step < 2:
            raise ValueError(
                f"mix is {self.mix} and a step has the crops of one image (batch_size "
                f"{self.batch_size}, crops_per_image {self.crops_per_image}), allowed: two images "
                "or more"
            )
        return self

    @property
    def images_per_step(self) -> int:
        """Images that a batch's crops come from."""
        return self.batch_size // self.crops_per_image

    def passes(self, num_images: int) -> Passes:
        """Return the passes over ``num_images`` images that the training makes."""
        size, m = self.batch_size, self.crops_per_image
        epochs = self.epochs
        if epochs is None:
            assert self.steps is not None
            epochs = self.steps * size / num_images
        if self.schedule == "serrated":
            warmup = self.num_warmup_steps(num_images) * size / num_images
            return Passes.serrated(
                num_images, size, m, num_epochs=epochs, warmup_epochs=warmup, num_steps=self.steps
            )
        num_steps = self.steps or max(1, math.ceil(epochs * num_images / size))
        return Passes.equal(num_images, size, m, num_steps)

    def num_steps(self, num_images: int) -> int:
        """Return the length of a training on ``num_images`` images in steps."""
        return self.passes(num_images).num_steps

    def num_warmup_steps(self, num_images: int) -> float:
        """Return the length of the rise in steps; a fraction where epochs do not fill steps."""
        if self.warmup_epochs is not None:
            return self.warmup_epochs * num_images / self.batch_size
        return float(self.warmup_steps or 0)


class LearnerConfig(TrainingConfig):
    """A network and how it is trained; what the sections teacher and train have in common."""

    model: ModelConfig
    """The network: by name, from scratch or from weights."""

    evaluation: str | None = Field(default=None, min_length=1)
    """Folder of class folders to measure accuracy on while training; none: not measured."""

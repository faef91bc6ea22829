"""Fields of the optimizer and of the learning rate. Imports pydantic only."""

from typing import Literal, Self

import pydantic
from pydantic import Field

ScheduleName = Literal["cosine", "serrated", "step", "one_cycle", "constant"]

MOST_STEPS = 10**9
MOST_EPOCHS = 1_000_000
"""Far above what anybody trains, and small enough to be counted with."""


class OptimizerConfig(pydantic.BaseModel):
    """How a step's gradient moves the weights, and how fast."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    optimizer: str = Field(default="adamw", min_length=1)
    """An optimizer by timm's name; `python -c "import timm; print(timm.optim.list_optimizers())"`
    lists them. In timm sgd means Nesterov momentum; plain momentum is called momentum."""

    lr: float = Field(gt=0, le=1e36)
    """Highest learning rate."""

    weight_decay: float = Field(default=0.05, ge=0, le=1e6)
    """Weight decay; biases and normalisation layers have none."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum, where the optimizer has one."""

    betas: tuple[float, float] | None = None
    """Adam's betas; none: the optimizer's own."""

    eps: float | None = Field(default=None, gt=0, le=1e6)
    """The optimizer's epsilon; none: the optimizer's own."""

    schedule: ScheduleName = "cosine"
    """How the learning rate runs: cosine (each step), serrated (FKD's: constant within a pass over
    the images), step (decay_at), one_cycle or constant."""

    decay_at: tuple[float, ...] = ()
    """For schedule step: shares of the run, within 0 and 1, at which lr is multiplied by
    decay_factor."""

    decay_factor: float = Field(default=0.1, gt=0, lt=1)
    """For schedule step."""

    final_lr: float = Field(default=0.0, ge=0)
    """For schedule cosine: where it ends."""

    warmup_steps: int | None = Field(default=None, ge=0, le=MOST_STEPS)
    """Length of the linear rise at the start in steps; give this, warmup_epochs or neither."""

    warmup_epochs: float | None = Field(default=None, ge=0, le=MOST_EPOCHS)
    """Length of the linear rise at the start in epochs."""

    warmup_lr: float = Field(default=1e-5, ge=0, le=1e6)
    """Learning rate at step 0 of the rise."""

    clip_grad: float | None = Field(default=None, gt=0, le=1e12)
    """Largest norm of the gradient; none: not clipped."""

    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Learning rate of a layer as a share of the one above it, by timm's groups of layers; none:
    one rate for all."""

    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Share that an average of the weights keeps of itself in a step. The average is then what is
    measured and published; none: the weights themselves."""

    @pydantic.model_validator(mode="after")
    def _check_rates(self) -> Self:
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise ValueError("both are given, allowed: one of warmup_steps and warmup_epochs")
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr is {self.final_lr}, allowed: at most lr ({self.lr})")
        if self.schedule == "step" and not self.decay_at:
            raise ValueError("decay_at is empty, allowed with schedule step: shares of the run")
        if self.schedule != "step" and self.decay_at:
            raise ValueError(
                f"decay_at is given, allowed: only with schedule step, which is {self.schedule}"
            )
        if any(not 0 < share < 1 for share in self.decay_at):
            raise ValueError(f"decay_at is {list(self.decay_at)}, allowed: shares within 0 and 1")
        return self

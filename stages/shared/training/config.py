"""How a network is trained: the fields that the teacher's and the students' sections share.

Imports pydantic only, so that checking parameters loads no torch.
"""

import math
from typing import ClassVar, Literal, Self

import pydantic
from pydantic import Field

from stages.shared.model_config import ModelConfig

ScheduleName = Literal["cosine", "serrated", "step", "one_cycle", "constant"]
Precision = Literal["float32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
MixName = Literal["none", "selfmix", "mixup", "cutmix", "mixup_cutmix"]
LossName = Literal["cross_entropy", "kl", "mse"]


class TrainingConfig(pydantic.BaseModel):
    """Optimizer, schedule, loss and loader of one training; crops are what a batch counts."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    NOT_KEYED: ClassVar[frozenset[str]] = frozenset({"num_workers"})
    """Fields that cannot change a byte of the model."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the first weights, of the order of images, the choice of crops and their mixing."""

    batch_size: int = Field(default=128, ge=1)
    """Crops in a step, a multiple of crops_per_image."""

    crops_per_image: int = Field(default=4, ge=1)
    """Crops of one image in a step (m). The image is decoded once for all of them, but a batch
    then holds fewer images: 1 learns best where batches are small."""

    steps: int | None = Field(default=None, ge=1)
    """Length of the training in steps; give this or epochs."""

    epochs: float | None = Field(default=None, gt=0)
    """Length of the training in epochs; in one epoch as many crops are seen as there are images,
    so a pass with crops_per_image = 4 counts as four."""

    optimizer: str = Field(default="adamw", min_length=1)
    """An optimizer by timm's name; `python -c "import timm; print(timm.optim.list_optimizers())"`
    lists them. In timm sgd means Nesterov momentum; plain momentum is called momentum."""

    lr: float = Field(gt=0)
    """Highest learning rate."""

    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay; biases and normalisation layers have none."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum, where the optimizer has one."""

    betas: tuple[float, float] | None = None
    """Adam's betas; none: the optimizer's own."""

    eps: float | None = Field(default=None, gt=0)
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

    warmup_steps: int | None = Field(default=None, ge=0)
    """Length of the linear rise at the start in steps; give this, warmup_epochs or neither."""

    warmup_epochs: float | None = Field(default=None, ge=0)
    """Length of the linear rise at the start in epochs."""

    warmup_lr: float = Field(default=1e-5, ge=0)
    """Learning rate at step 0 of the rise."""

    clip_grad: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; none: not clipped."""

    temperature: float = Field(default=1.0, gt=0)
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

    mixup_alpha: float = Field(default=0.8, gt=0)
    """Mixup: a crop's own share is drawn from Beta(alpha, alpha), once a step."""

    cutmix_alpha: float = Field(default=1.0, gt=0)
    """Cutmix and selfmix: the share outside the box is drawn from Beta(alpha, alpha), once a step;
    a box that leaves the crop is clipped, and the share is then what is left."""

    mix_switch: float = Field(default=0.5, ge=0, le=1)
    """For mixup_cutmix: probability that a step takes cutmix."""

    mix_probability: float = Field(default=1.0, ge=0, le=1)
    """Probability that a step's crops are mixed."""

    eval_every: int | None = Field(default=None, ge=1)
    """Steps between evaluations; none: only at the end."""

    num_workers: int = Field(default=0, ge=0)
    """Processes that decode images; 0: the training process does it itself."""

    precision: Precision = "float32"
    """Of the forward and backward computation; weights stay float32."""

    device: Device = "auto"
    """Where to train: auto takes a GPU if there is one."""

    @pydantic.model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            given = "neither is" if self.steps is None else "both are"
            raise ValueError(f"{given} given, allowed: exactly one of steps and epochs")
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise ValueError("both are given, allowed: one of warmup_steps and warmup_epochs")
        if self.batch_size % self.crops_per_image:
            raise ValueError(
                f"batch_size is {self.batch_size}, allowed: a multiple of crops_per_image "
                f"({self.crops_per_image})"
            )
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr is {self.final_lr}, allowed: at most lr ({self.lr})")
        self._check_decay()
        self._check_labels_use()
        return self

    def _check_decay(self) -> None:
        if self.schedule == "step" and not self.decay_at:
            raise ValueError("decay_at is empty, allowed with schedule step: shares of the run")
        if self.schedule != "step" and self.decay_at:
            raise ValueError(
                f"decay_at is given, allowed: only with schedule step, which is {self.schedule}"
            )
        if any(not 0 < share < 1 for share in self.decay_at):
            raise ValueError(f"decay_at is {list(self.decay_at)}, allowed: shares within 0 and 1")

    def _check_labels_use(self) -> None:
        if self.loss == "mse" and self.temperature != 1:
            raise ValueError(f"temperature is {self.temperature}, allowed with loss mse: 1")
        if self.mix not in ("none", "selfmix") and self.images_per_step < 2:
            raise ValueError(
                f"mix is {self.mix} and a step has the crops of one image (batch_size "
                f"{self.batch_size}, crops_per_image {self.crops_per_image}), allowed: two images "
                "or more"
            )

    @property
    def images_per_step(self) -> int:
        """Images that a batch's crops come from."""
        return self.batch_size // self.crops_per_image

    def num_steps(self, num_images: int) -> int:
        """Return the length of a training on ``num_images`` images in steps."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * num_images / self.batch_size))

    def num_warmup_steps(self, num_images: int) -> float:
        """Return the length of the rise in steps; a fraction where epochs do not fill steps."""
        if self.warmup_epochs is not None:
            return self.warmup_epochs * num_images / self.batch_size
        return float(self.warmup_steps or 0)


class LearnerConfig(TrainingConfig):
    """A network and how it is trained; what the sections teacher and train have in common."""

    model: ModelConfig
    """The network: a timm model by name, from scratch or from weights."""

    evaluation: str | None = None
    """Folder of class folders to measure accuracy on while training; none: not measured."""

"""Training a network on the steps of a `CropSource`, with accelerate's device and precision.

Legend: B crops of a step, C classes.

Same seed, same versions, same hardware, same number of threads: same network, bit for bit on a
CPU, whatever num_workers is.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]
from torch import nn

from stages.shared import devices
from stages.shared.contract import Progress
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import normalise
from stages.shared.training.batches import CropSource, StepPlan
from stages.shared.training.config import TrainingConfig
from stages.shared.training.evaluation import Evaluator
from stages.shared.training.history import History
from stages.shared.training.loader import StepBatches, TrainingBatch, iterate_steps, pixel_sizes
from stages.shared.training.loss import distillation_loss
from stages.shared.training.mixing import Mix, draw_mix, is_off, mix_pixels
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.schedule import make_schedule
from store.errors import ParamsError, ShardError

_CHECK_EVERY = 50
"""Steps between looks at the losses on a GPU: each look waits for all kernels."""

_PRECISIONS = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


class Trainer:
    """A training that can be advanced by any number of steps."""

    def __init__(
        self,
        module: nn.Module,
        spec: PixelSpec,
        source: CropSource,
        config: TrainingConfig,
        *,
        teacher: OnlineTeacher | None = None,
        num_workers: int | None = None,
    ) -> None:
        """Prepare everything; the first batch is only made by the first step.

        ``teacher`` replaces the labels of ``source``; where its input size differs from the
        student's, every crop is resized twice from the decoded image, once for each. Crops that
        are mixed are labelled after mixing, so both must see the same boxes.

        Raises:
            ParamsError: the optimizer, the device or the precision cannot be had, or crops are to
                be mixed and ``teacher`` has another input size than the student.
        """
        if teacher is not None and config.mix != "none" and teacher.model.spec.size != spec.size:
            raise ParamsError(
                f"mix is {config.mix} with an online teacher of input size "
                f"{_by(teacher.model.spec.size)}, but the student's is {_by(spec.size)}; set "
                "model.input_size alike, or mix to none"
            )
        self.config = config
        self.history = History()
        self.num_steps = config.num_steps(source.num_images)
        self._spec = spec
        self._teacher = teacher
        self._schedule = make_schedule(config, source.num_images)
        accelerator = make_accelerator(config)
        self._accelerator = accelerator
        self.device = accelerator.device
        self.module = module.to(accelerator.device)
        self._optimizer = accelerator.prepare(make_optimizer(module, config))
        if teacher is not None:
            teacher.prepare(self.device)
        plan = StepPlan(source.num_images, config.images_per_step, config.seed)
        teacher_spec = None if teacher is None else teacher.model.spec
        self._shared_pixels = len(pixel_sizes(spec, teacher_spec)) == 1
        self._batches = self._steps(
            StepBatches(source, plan, spec, teacher_spec),
            config.num_workers if num_workers is None else num_workers,
        )
        self._unread: list[torch.Tensor] = []
        torch.manual_seed(config.seed)  # dropout, drop path

    @property
    def steps_done(self) -> int:
        """Steps taken so far."""
        return len(self.history.lrs)

    def advance(self, num_steps: int, progress: Progress) -> float:
        """Take ``num_steps`` steps and return their wall time in seconds, data included.

        Raises:
            ShardError: a loss is not finite; the message names the step.
            DataError: an image is missing, damaged or changed.
        """
        self.module.train()
        start = time.perf_counter()
        for _ in range(num_steps):
            began = time.perf_counter()
            self._step()
            self.history.step_seconds.append(time.perf_counter() - began)
            progress.advance()
        self._read_losses()
        return time.perf_counter() - start

    def _step(self) -> None:
        batch = next(self._batches).to(self.device)
        lr = self._schedule(self.steps_done)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        mix = draw_mix(self.config, self.steps_done, self._spec.size)
        # Not `prepare(module)`: it would put the autocast into the module for ever.
        with self._accelerator.autocast():
            pixels = normalise(batch.pixels, self._spec.mean, self._spec.std)
            logits = self.module(mix_pixels(pixels, mix))
        loss = self._loss(logits, batch, mix)
        self._accelerator.backward(loss)
        if self.config.clip_grad is not None:
            self._accelerator.clip_grad_norm_(self.module.parameters(), self.config.clip_grad)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.history.lrs.append(lr)
        self._unread.append(loss.detach())
        if self.device.type == "cpu" or len(self._unread) >= _CHECK_EVERY:
            self._read_losses()

    def _loss(self, logits: torch.Tensor, batch: TrainingBatch, mix: Mix | None) -> torch.Tensor:
        config, labels = self.config, batch.labels
        if self._teacher is not None:
            pixels = batch.pixels if self._shared_pixels else batch.teacher_pixels
            assert pixels is not None
            # inference tensors cannot be saved for a backward pass; a clone outside can
            dense = self._teacher.labels(pixels, config.temperature, mix).clone()
            labels = replace(labels, dense=dense)
            if mix is not None:
                labels = labels.with_mixed_truth(mix.partners_on(self.device), mix.share)
        elif mix is not None:
            labels = labels.mixed(mix.partners_on(self.device), mix.share)
        return distillation_loss(
            logits,
            labels,
            temperature=config.temperature,
            truth_weight=config.truth_weight,
            loss=config.loss,
        )

    def _read_losses(self) -> None:
        if not self._unread:
            return
        losses = torch.stack(self._unread).tolist()
        self._unread = []
        for loss in losses:
            if not abs(loss) < float("inf"):
                raise ShardError(
                    f"the loss of step {len(self.history.losses)} is {loss}: training diverged; "
                    f"lower lr ({self.config.lr:g}), set clip_grad, or check the labels"
                )
            self.history.losses.append(loss)

    def _steps(self, batches: StepBatches, num_workers: int) -> Iterator[TrainingBatch]:
        return iterate_steps(
            batches,
            0,
            self.num_steps,
            num_workers=num_workers,
            pin_memory=self.device.type == "cuda",
        )


def fit(
    module: nn.Module,
    spec: PixelSpec,
    source: CropSource,
    config: TrainingConfig,
    *,
    evaluator: Evaluator | None = None,
    teacher: OnlineTeacher | None = None,
    progress: Progress,
    label: str = "train",
) -> History:
    """Train ``module`` in place as ``config`` says; it ends in evaluation mode, on the device.

    Raises:
        ParamsError: the optimizer, the device or the precision cannot be had, or the loss or the
            mixing does not suit labels or teacher.
        ShardError: a loss or an output is not finite.
        DataError: an image is missing, damaged or changed.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        trainer = Trainer(module, spec, source, config, teacher=teacher)
        progress.start(label, trainer.num_steps, "steps")
        if is_off(config):
            progress.note(f"{label}: mix is selfmix, but crops_per_image is 1: nothing is mixed")
        every = config.eval_every or trainer.num_steps
        while trainer.steps_done < trainer.num_steps:
            trainer.advance(min(every, trainer.num_steps - trainer.steps_done), progress)
            if evaluator is not None:
                accuracy = evaluator(trainer.module, trainer.device)
                trainer.history.evaluations.append((trainer.steps_done, accuracy))
    module.eval()
    return trainer.history


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def make_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return timm's optimizer of that name; biases and normalisation layers have no weight decay.

    Raises:
        ParamsError: timm has no optimizer of that name, or it does not take these settings.
    """
    given = {"betas": config.betas, "eps": config.eps}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    known = [str(name) for name in list_optimizers()]
    if config.optimizer.lower() not in known:
        raise ParamsError(
            f"optimizer is {config.optimizer!r}, which timm does not have; allowed: "
            f"{', '.join(known)}"
        )
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            module,
            opt=config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **options,
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ParamsError(
            f"optimizer {config.optimizer!r} does not take these settings: {error}"
        ) from None
    return optimizer


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Return accelerate's view of the device and precision asked for.

    Raises:
        ParamsError: there is no such device here, it cannot do that precision, or this process was
            started as one of several.
    """
    if devices.choose(config.device, "device").type == "cpu" and config.precision == "fp16":
        raise ParamsError("precision is fp16, which needs a GPU; allowed on a CPU: float32, bf16")
    accelerator = Accelerator(
        cpu=config.device == "cpu", mixed_precision=_PRECISIONS[config.precision]
    )
    if accelerator.num_processes > 1:
        raise ParamsError(
            f"training was started as {accelerator.num_processes} processes; start it as one, "
            "without torchrun or accelerate launch"
        )
    return accelerator

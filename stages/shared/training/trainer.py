"""Training a network on the steps of a `CropSource`, with accelerate's device and precision.

Legend: B crops of a step, b of them this process', C classes.

A step is a function of the weights, the optimizer's state, the seed and the step's number: nothing
else is carried from step to step. Same seed, same versions, same hardware, same number of threads:
same network, bit for bit on a CPU, whatever num_workers is and however often it was interrupted.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stages.shared import models, stopping
from stages.shared.contract import Progress
from stages.shared.model_config import PixelSpec
from stages.shared.training.acceleration import make_accelerator, place
from stages.shared.training.augment import check_spec
from stages.shared.training.batches import CropSource, StepPlan
from stages.shared.training.checks import check_parts, check_teacher
from stages.shared.training.config import TrainingConfig
from stages.shared.training.history import History
from stages.shared.training.inputs import Preparation, StepInputs
from stages.shared.training.loader import (
    StepBatches,
    TrainingBatch,
    iterate_steps,
    resize_place,
)
from stages.shared.training.loading import Loading
from stages.shared.training.loss import distillation_loss
from stages.shared.training.mixing import draw_mix
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.optimizer import make_optimizer
from stages.shared.training.projection_loss import projection_loss
from stages.shared.training.ranks import Ranks
from stages.shared.training.schedule import make_schedule
from stages.shared.training.seeds import step_seed
from store.errors import ShardError

_CHECK_EVERY = 50
"""Steps between looks at the losses on a GPU: each look waits for all kernels."""


class Trainer:
    """A training that can be advanced by any number of steps, and taken up where it was left."""

    def __init__(
        self,
        module: nn.Module,
        spec: PixelSpec,
        source: CropSource,
        config: TrainingConfig,
        *,
        teacher: OnlineTeacher | None = None,
        num_workers: int | None = None,
        ranks: Ranks | None = None,
        classifier_only: bool = False,
    ) -> None:
        """Prepare everything; the first batch is only made by the first step.

        ``teacher`` replaces the labels of ``source``; where its input size differs from the
        student's, every crop is resized twice from the decoded image, once for each. Crops that
        are mixed are labelled after mixing, so both must see the same boxes. With
        ``classifier_only`` the layers below the classifier stay as they are, in evaluation mode.

        Raises:
            ParamsError: the optimizer, the device or the precision cannot be had, a step cannot be
                divided among the processes, or crops are to be mixed and ``teacher`` has another
                input size than the student.
        """
        ranks = ranks or Ranks()
        if config.augment is not None:
            check_spec(config.augment)
        check_teacher(teacher, spec, config)
        check_parts(config, ranks)
        self.config, self.ranks = config, ranks
        self.history = History()
        passes = config.passes(source.num_images)
        self.num_steps = passes.num_steps
        self._passes = passes
        self._spec = spec
        self._teacher = teacher
        self._schedule = make_schedule(config, source.num_images)
        self._classifier_only = classifier_only
        accelerator = make_accelerator(config, ranks)
        self._accelerator = accelerator
        self.device = accelerator.device
        if classifier_only:
            trained = models.classifier_parameters(module)
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name in trained)
        self.module, self._network = place(module, config, ranks, self.device)
        self._optimizer = accelerator.prepare(make_optimizer(self.module, config))
        self._ema = None
        if config.ema_decay is not None:
            self._ema = ModelEmaV3(self.module, decay=config.ema_decay)
        teacher_spec = None
        if teacher is not None:
            teacher.prepare(self.device)
            teacher_spec = teacher.model.spec
        self._prepare = Preparation(config, ranks, spec, teacher_spec)
        self._source = StepBatches(
            source,
            StepPlan(passes, config.seed),
            spec,
            teacher_spec,
            resize=resize_place(config, self.device, source),
            augment=config.augment,
            seed=config.seed,
            part=ranks.part(),
        )
        self._num_workers = config.num_workers if num_workers is None else num_workers
        self._batches: Loading[TrainingBatch] | None = None
        self._unread: list[torch.Tensor] = []
        self._is_in_step = False

    @property
    def steps_done(self) -> int:
        """Steps taken so far."""
        return len(self.history.lrs)

    @property
    def is_whole(self) -> bool:
        """Whether no step is half done, so that `state` may be asked for."""
        return not self._is_in_step

    @property
    def measured(self) -> nn.Module:
        """The network to be measured and published: the average of the weights, where one is."""
        return self.module if self._ema is None else self._ema.module

    def advance(
        self, num_steps: int, progress: Progress, look: Callable[[], None] | None = None
    ) -> float:
        """Take ``num_steps`` steps and return their wall time in seconds, data included.

        ``look`` is called whenever the losses so far are known, between two steps.

        Raises:
            ShardError: a loss is not finite; the message names the step.
            DataError: an image is missing, damaged or changed.
            RetryError: an image could not be read this time, or a process that reads died.
        """
        self.module.train(not self._classifier_only)
        start = time.perf_counter()
        for _ in range(num_steps):
            began = time.perf_counter()
            batch = self._next_batch()
            with stopping.finish_first():  # between two steps, its state can be saved
                self._take(batch)
                self.history.step_seconds.append(time.perf_counter() - began)
            progress.advance()
            if self.device.type == "cpu" or len(self._unread) >= _CHECK_EVERY:
                self._read_losses()
                if look is not None:
                    look()
        self._read_losses()
        return time.perf_counter() - start

    def state(self) -> dict[str, object]:
        """Return all that the next step depends on, for `Checkpoints`; between two steps only."""
        assert self.is_whole
        self._read_losses()
        scaler = self._accelerator.scaler
        return {
            "module": dict(self.module.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "ema": None if self._ema is None else dict(self._ema.module.state_dict()),
            "scaler": None if scaler is None else scaler.state_dict(),
            "history": self.history.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        assert self._batches is None, "before the first step"
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._ema is not None:
            self._ema.module.load_state_dict(state["ema"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self.history = History.of_state(state["history"])

    def finish(self) -> None:
        """Put the network that was measured into the module, in evaluation mode."""
        if self._ema is not None:
            self.module.load_state_dict(self._ema.module.state_dict())
        self.module.eval()

    def _take(self, batch: TrainingBatch) -> None:
        assert self._batches is not None
        self._is_in_step = True
        # A worker's death is raised wherever this process happens to be.
        with self._batches.watching():
            self._step(batch.to(self.device))
        self._is_in_step = False

    def _step(self, batch: TrainingBatch) -> None:
        step, config = self.steps_done, self.config
        lr = self._schedule(step)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        mix = draw_mix(config, step, self._spec.size, self._passes.turn_of(step).m)
        inputs = self._prepare(batch, mix, step_seed(config.seed, step))
        torch.manual_seed(step_seed(config.seed, step, 1 + self.ranks.rank))  # dropout, drop path
        loss = self._backward(inputs)
        if config.clip_grad is not None:
            self._accelerator.clip_grad_norm_(self.module.parameters(), config.clip_grad)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._ema is not None:
            self._ema.update(self.module)
        self.history.lrs.append(lr)
        self._unread.append(loss)

    def _backward(self, inputs: StepInputs) -> torch.Tensor:
        """Add up the gradients of the parts, which count alike; return the mean loss."""
        num_parts = self.config.accumulate
        losses = []
        for number, part in enumerate(inputs.parts(num_parts), 1):
            with self._in_sync(number == num_parts):
                # Not `prepare(module)`: it would put the autocast into the module for ever.
                with self._accelerator.autocast():
                    logits = self._network(part.pixels)
                loss = self._loss(logits, part) / num_parts
                self._accelerator.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _in_sync(self, now: bool) -> contextlib.AbstractContextManager[None]:
        if now or not isinstance(self._network, DistributedDataParallel):
            return contextlib.nullcontext()
        waiting: contextlib.AbstractContextManager[None] = self._network.no_sync()
        return waiting

    def _loss(self, logits: torch.Tensor, part: StepInputs) -> torch.Tensor:
        config, labels = self.config, part.labels
        if self._teacher is not None:
            assert part.teacher_pixels is not None
            temperature = config.temperature if config.temperature_on == "both" else 1.0
            with self._accelerator.autocast():
                dense = self._teacher.probabilities(part.teacher_pixels, temperature)
            labels = replace(labels, dense=dense)
        if config.loss == "projection":
            assert labels.dense is not None
            return projection_loss(logits, labels.dense, config.projection_temperature)
        return distillation_loss(
            logits,
            labels,
            temperature=config.temperature,
            truth_weight=config.truth_weight,
            loss=config.loss,
            temperature_on=config.temperature_on,
        )

    def _next_batch(self) -> TrainingBatch:
        if self._batches is None:
            self._batches = iterate_steps(
                self._source,
                self.steps_done,
                self.num_steps,
                num_workers=self._num_workers,
                pin_memory=self.device.type == "cuda",
            )
        began = time.perf_counter()
        batch = next(self._batches)
        self.history.wait_seconds.append(time.perf_counter() - began)
        return batch

    def _read_losses(self) -> None:
        if not self._unread:
            return
        losses = self.ranks.mean(torch.stack(self._unread)).tolist()
        self._unread = []
        for loss in losses:
            if not abs(loss) < float("inf"):
                raise ShardError(
                    f"the loss of step {len(self.history.losses)} is {loss}: training diverged; "
                    f"lower lr ({self.config.lr:g}), set clip_grad, or check the labels"
                )
            self.history.losses.append(loss)

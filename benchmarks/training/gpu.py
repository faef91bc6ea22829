"""Loading for a GPU that resizes, and how much of a training the GPU waits."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from benchmarks.training.loading import IMAGES_A_STEP, LargeStore, loader, step_plan
from benchmarks.training.turns import on_cores, seconds_in_turns
from benchmarks.training.world import World
from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.model_config import ModelConfig
from stages.shared.pixels import normalise
from stages.shared.training.config import Precision, TrainingConfig
from stages.shared.training.loader import StepBatches
from stages.shared.training.loss import distillation_loss
from stages.shared.training.optimizer import make_optimizer
from stages.shared.training.trainer import Trainer

_M = 4
NO_GPU = "no GPU here: gpu_loader_ratio, gpu_images_per_second and gpu_wait_share are left out"


def loader_rate(world: World, device: torch.device, rounds: int, m: int = _M) -> float:
    """Crops a second of one core that decodes, the crops cut and resized on ``device``."""
    make = loader(world.open_view(), m, resize="device")

    def load() -> None:
        make().to(device)
        _wait_for(device)

    seconds = seconds_in_turns({"loader": load}, rounds, time.perf_counter)["loader"]
    return min(IMAGES_A_STEP, world.labels.num_images) * m / min(seconds)


def training(
    world: World,
    device: torch.device,
    *,
    steps: int = 40,
    network: str = "resnet50",
    batch_size: int = 256,
    precision: Precision = "bf16",
    num_workers: int | None = None,
    warm_up: int = 10,
    side: int = 224,
) -> dict[str, float]:
    """Images a second of a training with all cores, and the share of its time the GPU waits.

    The GPU waits for what the same steps on one batch that lies on it need less.
    """
    is_gpu = device.type == "cuda"
    if num_workers is None:
        num_workers = max(1, len(os.sched_getaffinity(0)) - 1)
    view = world.open_view()
    config = TrainingConfig(
        steps=warm_up + steps,
        batch_size=batch_size,
        crops_per_image=_M,
        lr=1e-3,
        device="cuda" if is_gpu else "cpu",
        precision=precision,
        resize="device",
        num_workers=num_workers,
    )
    model = models.build(
        ModelConfig(name=network, input_size=(side, side)), view.num_classes, seed=0
    )
    trainer = Trainer(model.module, model.spec, LargeStore(view), config)
    trainer.advance(warm_up, NoProgress())
    _wait_for(device)
    began = time.perf_counter()
    trainer.advance(steps, NoProgress())
    _wait_for(device)
    with_data = time.perf_counter() - began
    resident = _resident_seconds(world, model, config, device, warm_up)
    return {
        "gpu_images_per_second": steps * config.images_per_step / with_data,
        "gpu_crops_per_second": steps * batch_size / with_data,
        "gpu_wait_share": max(0.0, 1 - resident / with_data),
    }


def _resident_seconds(
    world: World, model: models.Model, config: TrainingConfig, device: torch.device, warm_up: int
) -> float:
    """Seconds of the steps after ``warm_up``, on a batch that lies on the device."""
    view, spec = world.open_view(), model.spec
    plan = step_plan(view.num_images, config.images_per_step, _M)
    batch = StepBatches(LargeStore(view), plan, spec, resize="device").make(0).to(device)
    optimizer = make_optimizer(model.module, config)
    began = 0.0
    for step in range(config.num_steps(view.num_images)):
        if step == warm_up:
            _wait_for(device)
            began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model.module(normalise(batch.pixels, spec.mean, spec.std))
        distillation_loss(logits, batch.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    _wait_for(device)
    return time.perf_counter() - began


def measure(world: World, rounds: int, reference_rate: float) -> dict[str, float]:
    """All of it on the first GPU; ``reference_rate`` is the reference's, crops a second a core.

    In a process of its own: accelerate settles device and precision once for each.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, world, rounds, reference_rate).result()


def _measure(world: World, rounds: int, reference_rate: float) -> dict[str, float]:
    device = torch.device("cuda", 0)
    with on_cores(1):
        rate = loader_rate(world, device, rounds)
    return {
        "gpu_loader_rate": rate,
        "gpu_loader_ratio": rate / reference_rate,
        **training(world, device),
    }


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

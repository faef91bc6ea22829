"""Training proxies once for all scores that share them, and letting scores look at them on the way.

Shapes: N images, B images of a batch, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stages.score.config import Proxy
from stages.score.images import Crops, Files
from stages.shared import models
from stages.shared.contract import Progress
from stages.shared.fresh_crops import fresh_crops
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import normalise
from stages.shared.training.trainer import Trainer
from store.errors import DataError, ShardError
from store.images import ImageTable

_AT_ONCE = 256
"""Images that a proxy judges at once."""


@dataclass(frozen=True, slots=True)
class Look:
    """A proxy at a step of its training, in evaluation mode; nothing may change it."""

    step: int
    """Steps taken."""
    lr: float
    """Learning rate of the last step."""
    module: nn.Module
    spec: PixelSpec
    device: torch.device
    crops: Crops
    """The usable training images, at their evaluation crops."""


class Watcher(Protocol):
    """A score in the making: it says when it looks at a proxy, and takes what it sees."""

    def steps(self, num_steps: int) -> Sequence[int]:
        """Steps at which it looks, from 1 to ``num_steps``, the end of the training."""

    def outputs(self, look: Look, rows: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Take the proxy's logits (B, C) for the images ``rows`` (B,)."""

    def network(self, look: Look, progress: Progress) -> None:
        """Take the proxy itself, after its outputs."""

    @property
    def reads_outputs(self) -> bool:
        """Whether it wants `outputs`."""


def train(
    proxy: Proxy,
    images: ImageTable,
    folder: Path,
    watchers: Sequence[Watcher],
    progress: Progress,
    label: str,
) -> dict[int, str]:
    """Train a proxy on the usable images, stopping where a watcher wants to look.

    Returns:
        why images could not be used, by their place in the table.

    Raises:
        ParamsError: the network, optimizer, device or precision cannot be had.
        DataError: no image is usable, or one changed meanwhile.
        ShardError: training diverged.
    """
    model = models.build(proxy.model, images.num_classes, seed=proxy.seed)
    files = Files.of_table(images, folder)
    crops = Crops(files, model.spec, batch_size=_AT_ONCE, num_workers=proxy.num_workers)
    reasons = crops.look(progress, f"{label}: images")
    if not len(crops):
        row, reason = next(iter(reasons.items()))
        raise DataError(
            f"none of {len(images)} images can be read, such as {files.paths[row]}: {reason}; "
            "restore the files, or run `ferkd-pipeline stage index` again"
        )
    source = fresh_crops(proxy, proxy, _usable(images, crops.rows), folder)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        trainer = Trainer(model.module, model.spec, source, proxy)
        asked = [(set(watcher.steps(trainer.num_steps)), watcher) for watcher in watchers]
        stops = sorted(set().union(*(steps for steps, _ in asked)))
        for stop in stops:
            progress.start(label, stop - trainer.steps_done, "steps")
            trainer.advance(stop - trainer.steps_done, progress)
            lr = trainer.history.lrs[-1]
            look = Look(stop, lr, trainer.module, model.spec, trainer.device, crops)
            _show(look, [watcher for steps, watcher in asked if stop in steps], progress, label)
    return reasons


def _usable(images: ImageTable, rows: NDArray[np.int64]) -> ImageTable:
    if len(rows) == len(images):
        return images
    return ImageTable(
        images.paths[rows],
        images.class_ids[rows],
        images.heights[rows],
        images.widths[rows],
        images.content_hashes[rows],
        images.class_names,
    )


def _show(look: Look, watchers: Sequence[Watcher], progress: Progress, label: str) -> None:
    look.module.eval()
    with torch.random.fork_rng(devices=_cuda(look.device)):  # training goes on as without a look
        reading = [watcher for watcher in watchers if watcher.reads_outputs]
        if reading:
            progress.start(f"{label}: outputs at step {look.step}", len(look.crops), "images")
            for batch in look.crops.batches():
                logits = outputs(look, batch.pixels)
                for watcher in reading:
                    watcher.outputs(look, batch.rows, logits)
                progress.advance(len(batch.rows))
        for watcher in watchers:
            watcher.network(look, progress)


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def outputs(look: Look, pixels: torch.Tensor) -> NDArray[np.float32]:
    """Return the proxy's logits (B, C) for uint8 crops.

    Raises:
        ShardError: they are not finite.
    """
    with torch.inference_mode():
        inputs = normalise(pixels.to(look.device), look.spec.mean, look.spec.std)
        logits = look.module(inputs).float().cpu()
    if not logits.isfinite().all():
        raise ShardError(
            f"the proxy's outputs at step {look.step} are not finite: training diverged; lower lr "
            "or set clip_grad"
        )
    return np.asarray(logits.numpy())

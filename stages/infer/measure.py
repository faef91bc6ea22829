"""How fast a shard would be labelled, beside the teachers' bare forward, and where the time goes.

The measurement runs what the stage runs, over the shard's first images, and writes to a temporary
folder on the same disk. B is the batch size, h and w a teacher's input size.
"""

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from stages.infer.blocks import Blocks
from stages.infer.clock import Clock
from stages.infer.config import Config
from stages.infer.feed import CropList, Crops
from stages.infer.forward import Labeller, precisely
from stages.infer.inputs import Inputs
from stages.shared.contract import NoProgress, Progress
from store.layout import Layout
from store.parts import PartWriter

_TRIAL_SHARE = 0.2
"""Of the time: to warm up, and to see how many images the rest is enough for."""
_BARE_SHARE = 0.2
_WARM_UP = 2
"""Batches that do not count."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measurement found."""

    device: str
    """``cpu``, or the name of the GPU."""
    num_images: int
    num_crops: int
    """Crops that were labelled and written; of a small shard each several times."""
    wall_seconds: float
    """From the first image to the last byte."""
    bare_crops_per_second: float
    """Of the forward alone, over normalised crops that lie on the device."""
    seconds: dict[str, float]
    """By part of the work; threads work beside each other, so the sum may exceed the whole."""
    bytes_per_crop: float
    """On disk."""

    @property
    def crops_per_second(self) -> float:
        """Of the whole stage."""
        return self.num_crops / self.wall_seconds

    @property
    def share_of_bare(self) -> float:
        """Speed of the stage, 1 being that of the bare forward."""
        return self.crops_per_second / self.bare_crops_per_second


def measure(
    config: Config, inputs: Inputs, seconds: float, progress: Progress | None = None
) -> Measured:
    """Label some of a shard's images, for about ``seconds`` in all.

    Raises what the stage would raise of these images.
    """
    watch: Progress = NoProgress() if progress is None else progress
    crops = Crops(*inputs.read_crops())
    rate = _trial(config, inputs, crops, seconds * _TRIAL_SHARE)
    bare = bare_forward(config, inputs, seconds * _BARE_SHARE / 2)
    left = seconds * (1 - _TRIAL_SHARE - _BARE_SHARE)
    num_images = min(len(inputs.images), max(1, round(rate * left / inputs.kept.num_crops)))
    found = _labelled(config, inputs, crops, num_images, left, watch)
    bare = max(bare, bare_forward(config, inputs, seconds * _BARE_SHARE / 2))
    return replace(found, bare_crops_per_second=bare)


def bare_forward(config: Config, inputs: Inputs, seconds: float) -> float:
    """Crops a second that the teachers forward when nothing else is to be done.

    As they are run by the stage: batch size, precision, memory format.
    """
    device = inputs.device
    batches = [
        torch.randn((config.batch_size, 3, *teacher.model.spec.size), device=device).contiguous(
            memory_format=torch.channels_last
        )
        for teacher in inputs.teachers
    ]

    def forward() -> None:
        with torch.inference_mode(), precisely(config, device):
            for teacher, batch in zip(inputs.teachers, batches, strict=True):
                teacher.model.module(batch)

    forward()  # what is chosen or compiled at the first time
    _wait_for(device)
    num_forwards, began = 0, time.perf_counter()
    while num_forwards == 0 or time.perf_counter() - began < seconds:
        for _ in range(_forwards_at_once(device)):
            forward()
            num_forwards += 1
        _wait_for(device)
    return num_forwards * config.batch_size / (time.perf_counter() - began)


def _forwards_at_once(device: torch.device) -> int:
    return 10 if device.type == "cuda" else 1


def _trial(config: Config, inputs: Inputs, crops: Crops, seconds: float) -> float:
    """Crops a second of labelling without writing; the first two batches warm up."""
    labeller = Labeller(config, inputs, crops, Clock())
    rows = np.argwhere(np.ones_like(crops.flips))
    marks = [(0, time.perf_counter())]
    for done in labeller.label([CropList(0, rows)]):
        marks.append((marks[-1][0] + len(done.batch.rows), time.perf_counter()))
        if len(marks) > _WARM_UP + 1 and marks[-1][1] - marks[0][1] > seconds:
            break
    first = marks[_WARM_UP] if len(marks) > _WARM_UP + 1 else marks[0]
    return (marks[-1][0] - first[0]) / (marks[-1][1] - first[1])


def _labelled(
    config: Config, inputs: Inputs, crops: Crops, num_images: int, seconds: float, watch: Progress
) -> Measured:
    """Label the first images, again and again until the time is up, and write what comes of it."""
    clock = Clock(inputs.device)
    work = inputs.layout.work / "work"
    work.mkdir(parents=True, exist_ok=True)
    wall, passes, num_bytes = 0.0, 0, 0
    while wall < seconds / 2 or not passes:
        with tempfile.TemporaryDirectory(prefix="measure-", dir=work) as folder:
            layout = Layout.beside(Path(folder) / "labels")
            few = replace(inputs, layout=layout, images=inputs.images.slice(0, num_images))
            output = PartWriter(layout, "predictions", inputs.crops.stem, "infer", "measured")
            began = time.perf_counter()
            blocks = Blocks(config, few, output, watch, crops.first(num_images), clock)
            blocks.write_all()
            wall += time.perf_counter() - began
            files = [path for path in blocks.writer.path.rglob("*") if path.is_file()]
            num_bytes = sum(path.stat().st_size for path in files)
        passes += 1
    num_crops = num_images * inputs.kept.num_crops
    is_cuda = inputs.device.type == "cuda"
    return Measured(
        device=torch.cuda.get_device_name(inputs.device) if is_cuda else "cpu",
        num_images=num_images,
        num_crops=passes * num_crops,
        wall_seconds=wall,
        bare_crops_per_second=math.nan,
        seconds=clock.seconds(),
        bytes_per_crop=num_bytes / num_crops,
    )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

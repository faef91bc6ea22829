"""From a few images to all of them: everything grows with the crops, footers with the shards."""

import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ferkd_pipeline.params import Params
from ferkd_pipeline.planning.measured import Sample, Weighed
from ferkd_pipeline.whole.common import layout_of
from stages.infer.config import Config as InferConfig
from stages.infer.unfinished import SAVE_SECONDS
from stages.sample.config import Config as SampleConfig
from stages.train.config import Config as TrainConfig

FEW_CROPS = 50_000
"""Below it, columns lack the repetitions that make them small, and starting takes most of the time
of the stages that need no GPU: what is scaled up is too much rather than too little."""

Unit = Literal["GPU", "CPU"]

_ARTIFACTS = ("crops", "predictions", "soft", "calibrated")


@dataclass(frozen=True, slots=True)
class Line:
    """What a stage will take."""

    stage: str
    name: str | None
    """Of a calibration."""
    num_images: int
    num_crops: int
    hours: float
    """Of one GPU, or one process on the CPU."""
    unit: Unit
    num_bytes: int
    place: str
    is_upper_bound: bool
    """Scaled up from so few crops that it is probably too much."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system that results are written to."""

    folder: Path
    num_bytes: int
    """What the plan needs there, all of it."""
    num_present: int
    """What of these artifacts lies there already."""
    num_free: int

    def with_(self, other: "Disk") -> "Disk":
        """Both needs on this one file system."""
        return replace(
            self,
            num_bytes=self.num_bytes + other.num_bytes,
            num_present=self.num_present + other.num_present,
        )

    @property
    def has_room(self) -> bool:
        """Whether it has room for what is not there yet."""
        return self.num_bytes - self.num_present <= self.num_free


@dataclass(frozen=True, slots=True)
class Plan:
    """What all stages will take."""

    sample: Sample
    lines: tuple[Line, ...]
    disks: tuple[Disk, ...]
    num_shards: int
    num_crops_an_image: int
    num_gpus: int
    block_images: int

    @property
    def num_crops(self) -> int:
        """Crops of the whole store."""
        return len(self.sample.table) * self.num_crops_an_image

    @property
    def shard_seconds(self) -> float:
        """Time of infer for one shard."""
        return self.num_crops / self.num_shards / self.sample.infer.crops_per_second

    @property
    def block_seconds(self) -> float:
        """Time of infer for one block."""
        num_images = min(self.block_images, math.ceil(len(self.sample.table) / self.num_shards))
        return num_images * self.num_crops_an_image / self.sample.infer.crops_per_second

    @property
    def lost_seconds(self) -> float:
        """What a kill of infer loses at most: unfinished blocks are kept too, every so often."""
        return min(self.block_seconds, SAVE_SECONDS)

    @property
    def infer_wall_hours(self) -> float:
        """Of infer, on all the GPUs: a shard is one GPU's."""
        return math.ceil(self.num_shards / self.num_gpus) * self.shard_seconds / 3600

    def hours(self, unit: Unit) -> float:
        """All stages together."""
        return math.fsum(line.hours for line in self.lines if line.unit == unit)

    @property
    def num_bytes(self) -> int:
        """All stages together, on all disks."""
        return sum(line.num_bytes for line in self.lines)


def estimate(values: Params, sample: Sample, num_gpus: int) -> Plan:
    """Scale what was measured up to the whole store and the whole training."""
    num_crops = values.typed("sample", SampleConfig).num_crops
    config = values.typed("infer", InferConfig)
    num_shards = values.store.num_shards
    lines = [_line(weighed, sample, num_crops, num_shards) for weighed in sample.stages]
    if sample.step is not None:
        lines.append(_training(values.typed("train", TrainConfig), sample))
    disks = _disks(values, lines)
    return Plan(sample, tuple(lines), disks, num_shards, num_crops, num_gpus, config.block_images)


def _line(weighed: Weighed, sample: Sample, num_crops: int, num_shards: int) -> Line:
    num_images = len(sample.table)
    total = num_images * num_crops
    seconds = weighed.seconds / weighed.num_crops * total
    unit: Unit = "CPU"
    if weighed.stage == "infer":
        seconds = total / sample.infer.crops_per_second
        unit = "CPU" if sample.infer.device == "cpu" else "GPU"
    num_parts = 1 if weighed.place == "view" else num_shards
    size = weighed.size
    return Line(
        stage=weighed.stage,
        name=weighed.name,
        num_images=num_images,
        num_crops=total,
        hours=seconds / 3600,
        unit=unit,
        num_bytes=round(size.of_rows / weighed.num_crops * total + size.of_part * num_parts),
        place=weighed.place,
        is_upper_bound=weighed.stage != "infer" and weighed.num_crops < min(FEW_CROPS, total),
    )


def _training(config: TrainConfig, sample: Sample) -> Line:
    assert sample.step is not None
    num_images = len(sample.table)
    total = config.num_steps(num_images) * config.batch_size
    unit: Unit = "CPU" if sample.step.device == "cpu" else "GPU"
    hours = total / sample.step.crops_per_second / 3600
    return Line("train", None, num_images, total, hours, unit, 0, "models", False)


def _disks(values: Params, lines: list[Line]) -> tuple[Disk, ...]:
    """One of each file system; the view of a training may lie on another than the labels."""
    layout = layout_of(values)
    places = {"labels": layout.root, "view": layout.view_cache()}
    # What views lie there is left out: whether one is of these labels shows only when they are.
    present = {"labels": sum(_bytes_below(layout.folder(name)) for name in _ARTIFACTS), "view": 0}
    found: dict[int, Disk] = {}
    for place, folder in places.items():
        there = _existing(folder)
        num_bytes = sum(line.num_bytes for line in lines if line.place == place)
        one = Disk(folder, num_bytes, present[place], shutil.disk_usage(there).free)
        device = os.stat(there).st_dev
        found[device] = found[device].with_(one) if device in found else one
    return tuple(disk for disk in found.values() if disk.num_bytes)


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

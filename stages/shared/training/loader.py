"""Steps as tensors: each image decoded once, its crops resized straight into the batch.

Crops are resized by the process that decodes (cpu), or where the network is, out of whole images
that were sent there (device).

Shapes: I images a step, m crops an image, B = I x m, (h, w) the network's input size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from stages.shared.mixed import mix_crops, partners_of
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import crop_resize
from stages.shared.recorded import replay
from stages.shared.training.augment import augmented
from stages.shared.training.batches import WHOLE, CropSource, Part, StepPlan, select_step
from stages.shared.training.config import TrainingConfig
from stages.shared.training.device_batch import UncutCrops
from stages.shared.training.image_reader import ImageReader, images_to_read, read_image
from stages.shared.training.labels import LabelTensors
from stages.shared.training.loader_memory import new_bytes, want_of_memory
from stages.shared.training.loading import Loading
from stages.shared.training.selection import Selection
from store.errors import FerkdError, ParamsError

__all__ = [
    "ImageReader",
    "Place",
    "StepBatches",
    "TrainingBatch",
    "cut_crops",
    "iterate",
    "iterate_steps",
    "pixel_sizes",
    "read_image",
    "resize_place",
]

Place = Literal["cpu", "device"]

_MOST_WHOLE_BYTES = 2**30
"""Whole images of a step that `auto` sends to a GPU; larger ones are cut before."""


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """The crops of one step, or of a part of it, and their labels."""

    pixels: torch.Tensor
    """(B, 3, h, w) uint8, the m crops of an image side by side; (0, 3, h, w) where the crops are
    still to be cut out of ``uncut``: `to` does that."""
    labels: LabelTensors
    teacher_pixels: torch.Tensor | None = None
    """The same crops at an online teacher's size, where that differs from the student's."""
    uncut: UncutCrops | None = None
    """Whole images, where crops are resized on the device."""
    specs: tuple[PixelSpec, ...] = ()
    """How crops are cut out of ``uncut``: for the student, then for the teacher."""

    def to(self, device: torch.device) -> "TrainingBatch":
        """Return the batch on ``device``, its crops cut."""
        labels = self.labels.to(device)
        if self.uncut is not None:
            return _batch(self.uncut.cut(device, self.specs), labels)
        return self._map(lambda part: part.to(device, non_blocking=True), labels)

    def pin_memory(self) -> "TrainingBatch":
        """Return the batch in page-locked memory; the DataLoader calls this by name."""
        batch = self._map(lambda part: part.pin_memory(), self.labels.pin_memory())
        return batch if self.uncut is None else replace(batch, uncut=self.uncut.pin_memory())

    def _map(
        self, change: Callable[[torch.Tensor], torch.Tensor], labels: LabelTensors
    ) -> "TrainingBatch":
        teacher = None if self.teacher_pixels is None else change(self.teacher_pixels)
        return replace(self, pixels=change(self.pixels), labels=labels, teacher_pixels=teacher)


def _batch(pixels: list[torch.Tensor], labels: LabelTensors) -> TrainingBatch:
    return TrainingBatch(pixels[0], labels, pixels[1] if len(pixels) > 1 else None)


def cut_crops(
    selection: Selection, reader: ImageReader, specs: tuple[PixelSpec, ...]
) -> list[torch.Tensor]:
    """Return the selection's crops as (B, 3, h, w) uint8, once at each of the sizes of ``specs``.

    They are mixed as was recorded, and what was recorded to be done to them is done.

    Raises:
        DataError: an image is missing, damaged, or not the one that its boxes were drawn for.
        RetryError: an image could not be read this time.
    """
    batch, partners = selection.batch, selection.partners
    num_images, m = batch.flips.shape
    mixed = None if batch.mix is None else partners_of(batch.mix)
    num_mixed = 0 if partners is None else len(partners.paths)
    outputs = [new_bytes((num_images * m, *each.size, 3)).permute(0, 3, 1, 2) for each in specs]
    # Of this process alone: what is mixed in is not sent on.
    others = [
        torch.empty((num_mixed, *each.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        for each in specs
    ]
    for each in images_to_read(selection):
        image = reader.read(each.wanted)
        for output, other, spec in zip(outputs, others, specs, strict=True):
            how = (spec.size, spec.interpolation)
            if each.place is not None:
                own = batch.boxes[each.place], batch.flips[each.place]
                crop_resize(image, *own, *how, out=output[each.place * m : each.place * m + m])
            if each.partners and mixed is not None:
                boxes, flips = mixed.boxes[each.partners], mixed.flips[each.partners]
                other[each.partners] = crop_resize(image, boxes, flips, *how)
    if batch.mix is not None:
        for output, other in zip(outputs, others, strict=True):
            mix_crops(output, other, batch.mix)
    if batch.ops is None:
        return outputs
    return [replay(each, batch.ops, out=each) for each in outputs]


class StepBatches(Dataset["TrainingBatch | FerkdError"]):
    """Steps by number. An error is returned, not raised: the DataLoader would rewrite it."""

    def __init__(
        self,
        source: CropSource,
        plan: StepPlan,
        spec: PixelSpec,
        teacher_spec: PixelSpec | None = None,
        *,
        resize: Place | Literal["auto"] = "cpu",
        augment: str | None = None,
        seed: int = 0,
        part: Part = WHOLE,
    ) -> None:
        """Read nothing yet.

        Args:
            source: where crops come from.
            plan: which images a step takes.
            spec: of the student.
            teacher_spec: of an online teacher.
            resize: where; `resize_place` chooses, auto is cpu here.
            augment: RandAugment of the student's crops. A teacher sees them as they were.
            seed: of RandAugment.
            part: (rank, number of ranks): which images of a step to read.

        Raises:
            ParamsError: RandAugment is asked for, and crops are resized on a device.
        """
        if resize == "device" and augment is not None:
            raise ParamsError(_both(augment))
        self._source = source
        self._plan = plan
        self._specs = pixel_sizes(spec, teacher_spec)
        self._has_teacher = teacher_spec is not None
        self._on_device = resize == "device"
        self._augment = augment
        self._seed = seed
        self._part = part
        self._reader = ImageReader(source.decoded_bytes)

    @property
    def mean_bytes(self) -> int:
        """About how large a batch is, labels left out."""
        passes, (_, count) = self._plan.passes, self._part
        num_crops = passes.batch_size // count
        if not self._on_device:
            return sum(3 * each.size[0] * each.size[1] * num_crops for each in self._specs)
        fewest_crops = min(run.first.m for run in passes.runs)
        return _whole_bytes(self._source, num_crops // fewest_crops, num_crops)

    def make(self, step: int) -> TrainingBatch:
        """Return a step's batch; raises as `cut_crops`."""
        selection = select_step(self._source, self._plan, step, self._part)
        labels = LabelTensors.from_batch(selection.batch)
        if self._on_device:
            none = torch.empty((0, 3, *self._specs[0].size), dtype=torch.uint8)
            uncut = UncutCrops.read(selection, self._reader)
            return TrainingBatch(none, labels, None, uncut, self._specs)
        pixels = cut_crops(selection, self._reader, self._specs)
        if self._augment is not None:
            places = np.arange(len(pixels[0])) + self._part[0] * len(pixels[0])
            seen = augmented(pixels[0], places, self._augment, self._seed, step)
            # An online teacher is asked about the crops as they were.
            pixels = [seen, *(pixels[1:] or pixels if self._has_teacher else [])]
        return _batch(pixels, labels)

    def __getitem__(self, step: int) -> TrainingBatch | FerkdError:
        """Return a step's batch, or why there is none."""
        try:
            return self.make(step)
        except FerkdError as error:
            return error
        except (MemoryError, RuntimeError) as error:
            told = want_of_memory(error)
            if told is None:
                raise
            return told


def resize_place(
    config: TrainingConfig, device: torch.device, source: CropSource | None = None
) -> Place:
    """Return where crops are resized: ``config.resize``, where that is auto on a GPU's device.

    On the CPU nevertheless with RandAugment, which needs crops there, and where the images of a
    step of ``source`` would take more than 1 GiB.

    Raises:
        ParamsError: RandAugment is asked for, and crops are to be resized on a device.
    """
    if config.resize != "auto":
        if config.resize == "device" and config.augment is not None:
            raise ParamsError(_both(config.augment))
        return config.resize
    if device.type != "cuda" or config.augment is not None:
        return "cpu"
    too_large = source is not None and (
        _whole_bytes(source, config.images_per_step, config.batch_size) > _MOST_WHOLE_BYTES
    )
    return "cpu" if too_large else "device"


def _whole_bytes(source: CropSource, num_images: int, num_crops: int) -> int:
    """About what images take, and one more for each crop where crops are mixed."""
    num_images += num_crops if source.is_mixed else 0
    return source.decoded_bytes // source.num_images * num_images


def _both(augment: str) -> str:
    return (
        f"resize is device and augment is {augment}, which works on crops that were resized by the "
        "processes that decode; set resize to auto or cpu, or augment to none"
    )


def pixel_sizes(spec: PixelSpec, teacher_spec: PixelSpec | None) -> tuple[PixelSpec, ...]:
    """Return the specs that crops must be resized for: one where student and teacher agree."""
    if teacher_spec is None:
        return (spec,)
    same = (spec.size, spec.interpolation) == (teacher_spec.size, teacher_spec.interpolation)
    return (spec,) if same else (spec, teacher_spec)


def iterate_steps(
    batches: StepBatches, start: int, stop: int, *, num_workers: int, pin_memory: bool = False
) -> Loading[TrainingBatch]:
    """Return the batches of steps ``start`` to ``stop`` (exclusive), in order.

    Its `next` raises:
        DataError: an image is missing, damaged or changed; the message names it.
        RetryError: an image could not be read this time, or a worker process died.
    """
    return Loading(
        batches,
        range(start, stop),
        num_workers,
        pin_memory=pin_memory,
        item_bytes=batches.mean_bytes,
    )


def iterate(
    dataset: Dataset[Any], numbers: range, num_workers: int, pin_memory: bool = False
) -> Loading[Any]:
    """Return ``dataset``'s items by number; those that are errors are raised."""
    return Loading(dataset, numbers, num_workers, pin_memory=pin_memory)

"""The teachers' forwards: a batch of crops in, what is kept of their output back.

Shapes: B crops of a forward, P of them real (the others pad), C classes (or outputs
of a projection head), E teachers.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.infer import clock
from stages.infer.clock import Clock
from stages.infer.config import Config
from stages.infer.core import Arrays
from stages.infer.device_crops import DeviceCrops
from stages.infer.feed import Batch, CropFeed, CropList, Crops, PixelKey, pixel_key
from stages.infer.inputs import Inputs
from stages.infer.projection import HIGHEST, KeptProjection
from stages.infer.teachers import Teacher, averaged
from stages.shared.devices import AUTOCAST
from stages.shared.pixels import normalise
from store.errors import DataError, ShardError

_AHEAD = 2
"""Batches that a GPU has been given while the CPU waits for the one before."""


@contextmanager
def precisely(config: Config, device: torch.device) -> Iterator[None]:
    """Forward in `infer.precision`: float32 is no TF32, which convolutions of a GPU would take."""
    dtype = AUTOCAST.get(config.precision)
    with (
        torch.backends.cudnn.flags(enabled=True, allow_tf32=dtype is not None),
        torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
    ):
        yield


@dataclass(frozen=True, slots=True)
class Labelled:
    """What is kept of a batch's crops."""

    batch: Batch
    arrays: Arrays
    """Of P crops; those of images that failed hold what the teachers say of black."""


class Labeller:
    """Asks the teachers about one shard's crops, batch by batch."""

    def __init__(self, config: Config, inputs: Inputs, crops: Crops, clock: Clock) -> None:
        """Make ready to decode ``crops`` of the shard's images and to forward them."""
        self._config, self._inputs, self._clock = config, inputs, clock
        device, size = inputs.device, config.batch_size
        keys = list(dict.fromkeys(pixel_key(each.model.spec) for each in inputs.teachers))
        self.feed = CropFeed(
            inputs.images_folder,
            inputs.images,
            crops,
            keys,
            size,
            num_workers=config.num_workers,
            whole=inputs.on_device,
            pinned=device.type == "cuda",
            clock=clock,
        )
        self._crops = DeviceCrops(crops, keys, size, device, clock) if inputs.on_device else None
        self._targets = torch.from_numpy(inputs.images.class_ids.astype(np.int64))

    def label(self, lists: Iterable[CropList]) -> Iterator[Labelled]:
        """Yield the batches of the lists, in order.

        Raises:
            ShardError: a teacher gave NaN or infinity, or more than can be stored.
            DataError: it has another number of classes or outputs, or an image changed.
            RetryError: an image could not be read for a reason that may pass.
        """
        launched: deque[_Launched] = deque()
        ahead = _AHEAD if self._inputs.device.type == "cuda" else 0
        for batch in self._waited_for(self.feed.batches(lists)):
            launched.append(self._launch(batch))
            if len(launched) > ahead:
                yield self._result(launched.popleft())
        while launched:
            yield self._result(launched.popleft())

    def _waited_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            with self._clock.time("wait for pixels"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _launch(self, batch: Batch) -> "_Launched":
        """Give the device its work, without waiting for it."""
        device, rows = self._inputs.device, batch.rows
        with torch.inference_mode():
            if self._crops is None:
                pixels = {k: each.to(device, non_blocking=True) for k, each in batch.pixels.items()}
            else:
                pixels = self._crops.make(batch)
            with self._clock.on_device("forward"), precisely(self._config, device):
                said = self._forward(pixels, len(rows))
            with self._clock.on_device("keep"):
                wrong = [self._what_is_wrong(*each) for each in self._with_teachers(said)]
                targets = self._targets[rows[:, 0]].to(device, non_blocking=True)
                logits = averaged(self._config, self._inputs.teachers, said)
                kept = self._inputs.kept.values(logits, targets)
                found = _begin_copies({**kept, **{f"!{i}": each for i, each in enumerate(wrong)}})
        event = clock.new_event() if device.type == "cuda" else None
        if event is not None:
            event.record()
        return _Launched(batch, found, event)

    def _forward(self, pixels: Mapping[PixelKey, Tensor], num_crops: int) -> list[Tensor]:
        """Each teacher's outputs of the P crops, (P, C) float32."""
        found = []
        for teacher in self._inputs.teachers:
            spec = teacher.model.spec
            outputs = teacher.model.module(normalise(pixels[pixel_key(spec)], spec.mean, spec.std))
            found.append(outputs[:num_crops].float())
        return found

    def _with_teachers(self, said: list[Tensor]) -> Iterator[tuple[Teacher, Tensor]]:
        return zip(self._inputs.teachers, said, strict=True)

    def _what_is_wrong(self, teacher: Teacher, logits: Tensor) -> Tensor:
        """Of each crop, (P,): 0 where the outputs can be kept, else the largest; NaN: not finite.

        Looked at when the batch comes back: to look now would be to wait for the device.
        """
        kept = self._inputs.kept
        if logits.shape[1:] != (kept.num_outputs,):
            raise DataError(self._of_other_outputs(teacher, logits))
        largest = logits.abs().amax(dim=1)
        is_finite = torch.isfinite(logits).all(dim=1)
        too_large = torch.zeros_like(largest)
        if isinstance(kept, KeptProjection):
            too_large = torch.where(torch.isinf(logits.half()).any(dim=1), largest, too_large)
        return torch.where(is_finite, too_large, torch.nan)

    def _result(self, launched: "_Launched") -> Labelled:
        """Wait for a batch to come back."""
        if launched.event is not None:
            with self._clock.time("wait for the device"):
                launched.event.synchronize()
        batch = launched.batch
        arrays = {name: tensor.numpy() for name, tensor in launched.found.items()}
        usable = ~np.isin(batch.rows[:, 0], list(batch.failed))
        for number, teacher in enumerate(self._inputs.teachers):
            wrong = arrays.pop(f"!{number}")
            bad = np.flatnonzero((wrong != 0) & usable)
            if len(bad):
                raise self._not_to_be_kept(teacher, batch.rows[bad[0]], float(wrong[bad[0]]))
        return Labelled(batch, arrays)

    def _not_to_be_kept(
        self, teacher: Teacher, row: NDArray[np.int64], largest: float
    ) -> ShardError:
        shown = f"crop {row[1]} of {self._inputs.images.paths[row[0]]}"
        if np.isnan(largest):
            return ShardError(
                f"the teacher {teacher.name} gave NaN or infinity for {shown}; try infer.precision "
                "float32 or other weights"
            )
        return ShardError(
            f"the teacher {teacher.name} gave {largest:.6g} for {shown}, and outputs are stored as "
            f"float16, up to {HIGHEST:g}; scale its last layer down"
        )

    def _of_other_outputs(self, teacher: Teacher, logits: Tensor) -> str:
        wanted, shape = self._inputs.kept.num_outputs, tuple(logits.shape[1:])
        found = str(shape[0]) if len(shape) == 1 else f"outputs of shape {shape} instead of"
        if isinstance(self._inputs.kept, KeptProjection):
            return (
                f"the teacher {teacher.name} gives {found} outputs, infer.num_outputs is {wanted}; "
                "set it to what the teacher's head gives"
            )
        return (
            f"the teacher {teacher.name} gives {found} classes, the images have {wanted}; use a "
            "teacher of these classes"
        )


@dataclass(frozen=True, slots=True)
class _Launched:
    """A batch on its way through the device."""

    batch: Batch
    found: dict[str, Tensor]
    """On the CPU, once ``event`` is over."""
    event: torch.cuda.Event | None


def _begin_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Begin to copy tensors of a GPU to page-locked memory; those of a CPU as they are."""
    return {
        name: torch.empty_like(each, device="cpu", pin_memory=True).copy_(each, non_blocking=True)
        if each.is_cuda
        else each
        for name, each in tensors.items()
    }

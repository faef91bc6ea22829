"""Steps as tensors: each image decoded once, its crops resized straight into the batch.

Shapes: I images a step, m crops an image, B = I x m, (h, w) the network's input size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from stages.shared.images import INDEXED_MAX_PIXELS, ImageError, decode, read_bytes
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import crop_resize
from stages.shared.training.batches import CropSource, Selection, StepPlan, select_step
from stages.shared.training.labels import LabelTensors
from store.errors import DataError, FerkdError, RetryError

KEPT_BYTES = 128 * 2**20
"""Image sets that are smaller than this when decoded are decoded once and kept, per process."""

_PREFETCH = 4  # batches a worker may be ahead


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """The crops of one step and their labels."""

    pixels: torch.Tensor
    """(B, 3, h, w) uint8, the m crops of an image side by side."""
    labels: LabelTensors
    teacher_pixels: torch.Tensor | None = None
    """The same crops at an online teacher's size, where that differs from the student's."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on ``device``."""
        return self._map(lambda part: part.to(device, non_blocking=True), self.labels.to(device))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory; the DataLoader calls this by name."""
        return self._map(lambda part: part.pin_memory(), self.labels.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor], labels: LabelTensors) -> Self:
        teacher = None if self.teacher_pixels is None else change(self.teacher_pixels)
        return type(self)(change(self.pixels), labels, teacher)


class ImageReader:
    """Reads and decodes image files; keeps them where all of them are small."""

    def __init__(self, decoded_bytes: int) -> None:
        self._kept: dict[str, NDArray[np.uint8]] | None
        self._kept = {} if decoded_bytes <= KEPT_BYTES else None

    def read(self, path: str) -> NDArray[np.uint8]:
        """Return an image as (H, W, 3) uint8.

        Raises:
            DataError: the file is missing or is not an image.
            RetryError: the file could not be read this time.
        """
        if self._kept is None:
            return read_image(path)
        image = self._kept.get(path)
        if image is None:
            image = self._kept[path] = read_image(path)
        return image


def read_image(path: str) -> NDArray[np.uint8]:
    """Return an image file as (H, W, 3) uint8; raises as `ImageReader.read`."""
    try:
        return decode(read_bytes(Path(path)), max_pixels=INDEXED_MAX_PIXELS)
    except ImageError as error:
        raise DataError(
            f"{path}: {error}; restore the file, or run the stage index again to leave it out"
        ) from None


def cut_crops(
    selection: Selection, reader: ImageReader, specs: tuple[PixelSpec, ...]
) -> list[torch.Tensor]:
    """Return the selection's crops as (B, 3, h, w) uint8, once at each of the sizes of ``specs``.

    Raises:
        DataError: an image is missing, damaged, or not of the size that its boxes were drawn for.
        RetryError: an image could not be read this time.
    """
    boxes, flips = selection.batch.boxes, selection.batch.flips
    num_images, m = flips.shape
    outputs = [
        torch.empty(
            (num_images * m, 3, *spec.size), dtype=torch.uint8, memory_format=torch.channels_last
        )
        for spec in specs
    ]
    for place, path in enumerate(selection.paths):
        image = reader.read(path)
        _check_size(path, image, selection.heights[place], selection.widths[place])
        for output, spec in zip(outputs, specs, strict=True):
            crop_resize(
                image,
                boxes[place],
                flips[place],
                spec.size,
                spec.interpolation,
                out=output[place * m : place * m + m],
            )
    return outputs


def _check_size(path: str, image: NDArray[np.uint8], height: int, width: int) -> None:
    if image.shape[:2] != (height, width):
        raise DataError(
            f"{path} is {image.shape[0]}x{image.shape[1]} pixels, but was {height}x{width} when it "
            "was indexed; run the stage index again"
        )


class StepBatches(Dataset["TrainingBatch | FerkdError"]):
    """Steps by number. An error is returned, not raised: the DataLoader would rewrite it."""

    def __init__(
        self,
        source: CropSource,
        plan: StepPlan,
        spec: PixelSpec,
        teacher_spec: PixelSpec | None = None,
    ) -> None:
        self._source = source
        self._plan = plan
        self._specs = pixel_sizes(spec, teacher_spec)
        self._reader = ImageReader(source.decoded_bytes)

    def make(self, step: int) -> TrainingBatch:
        """Return a step's batch; raises as `cut_crops`."""
        selection = select_step(self._source, self._plan, step)
        pixels = cut_crops(selection, self._reader, self._specs)
        labels = LabelTensors.from_batch(selection.batch)
        return TrainingBatch(pixels[0], labels, pixels[1] if len(pixels) > 1 else None)

    def __getitem__(self, step: int) -> TrainingBatch | FerkdError:
        """Return a step's batch, or why there is none."""
        try:
            return self.make(step)
        except FerkdError as error:
            return error


def pixel_sizes(spec: PixelSpec, teacher_spec: PixelSpec | None) -> tuple[PixelSpec, ...]:
    """Return the specs that crops must be resized for: one where student and teacher agree."""
    if teacher_spec is None:
        return (spec,)
    same = (spec.size, spec.interpolation) == (teacher_spec.size, teacher_spec.interpolation)
    return (spec,) if same else (spec, teacher_spec)


def iterate_steps(
    batches: StepBatches, start: int, stop: int, *, num_workers: int, pin_memory: bool = False
) -> Iterator[TrainingBatch]:
    """Yield the batches of steps ``start`` to ``stop`` (exclusive), in order.

    Raises:
        DataError: an image is missing, damaged or changed; the message names it.
        RetryError: an image could not be read this time, or a worker process died.
    """
    yield from iterate(batches, range(start, stop), num_workers, pin_memory)


def iterate(
    dataset: Dataset[Any], numbers: range, num_workers: int, pin_memory: bool = False
) -> Iterator[Any]:
    """Yield ``dataset``'s items by number, raising those that are errors."""
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        sampler=numbers,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        prefetch_factor=_PREFETCH if num_workers else None,
        generator=torch.Generator(),  # else it draws from the one that dropout uses
    )
    items = iter(loader)
    try:
        while (item := _next_item(items)) is not None:
            if isinstance(item, FerkdError):
                raise item
            yield item
    finally:
        # Now and not with the traceback that holds this frame: workers that are left to the
        # garbage collector take five seconds to stop.
        del items


def _next_item(items: Iterator[Any]) -> Any:
    try:
        return next(items, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RetryError(
            "a process that loads images died, perhaps for want of memory; "
            "lower num_workers or batch_size and try again"
        ) from None


def _as_it_is(item: Any) -> Any:
    return item

"""Top-1 and top-5 accuracy on a folder of class folders.

Shapes: B images of a batch, C classes, (h, w) the network's input size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from stages.shared.images import find_classes, find_images
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import evaluation_crop, normalise
from stages.shared.training.history import Accuracy
from stages.shared.training.loader import iterate, read_image
from store.errors import DataError, FerkdError, ShardError

KEPT_BYTES = 256 * 2**20
"""Sets whose pixels fit into this are read once and kept as uint8; larger ones stream."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Images with their classes in the order of training."""

    name: str
    """As reports call it: val, test."""
    paths: tuple[str, ...]
    """Files, sorted."""
    class_ids: tuple[int, ...]
    """Of each file."""
    num_classes: int
    """C of the training, also where the folder holds fewer."""


def read_class_folder(name: str, folder: Path, class_names: Sequence[str]) -> EvaluationSet:
    """List the images of a folder of class folders, matched to the training classes by name.

    A training class without a folder is allowed: sets may cover fewer classes.

    Raises:
        DataError: no such folder, a class folder that training does not know or that is empty, or
            an image file that cannot be one.
    """
    numbers = {class_name: class_id for class_id, class_name in enumerate(class_names)}
    for found in find_classes(folder):
        if found not in numbers:
            raise DataError(
                f"{folder / found}: training knows no class of this name (it has {len(numbers)}, "
                f"such as {', '.join(class_names[:3])}); rename or remove the folder"
            )
    images = find_images(folder)
    if images.rejects:
        reject = images.rejects[0]
        raise DataError(f"{folder / reject.path}: {reject.reason}; repair or remove it")
    return EvaluationSet(
        name=name,
        paths=tuple(str(folder / path) for path in images.paths),
        class_ids=tuple(numbers[path.split("/", 1)[0]] for path in images.paths),
        num_classes=len(class_names),
    )


class Evaluator:
    """One set at one input size, ready to be evaluated on again and again."""

    def __init__(
        self, images: EvaluationSet, spec: PixelSpec, *, batch_size: int = 256, num_workers: int = 0
    ) -> None:
        self.name = images.name
        self._images = images
        self._spec = spec
        self._batch_size = batch_size
        self._num_workers = num_workers
        num_bytes = 3 * spec.size[0] * spec.size[1] * len(images.paths)
        self._kept: list[torch.Tensor] | None = [] if num_bytes <= KEPT_BYTES else None

    def __call__(self, module: nn.Module, device: torch.device) -> Accuracy:
        """Return the accuracy of ``module``, which is on ``device``; its mode is restored.

        Raises:
            DataError: an image is missing or damaged.
            ShardError: the network's outputs are not finite.
        """
        was_training = module.training
        module.eval()
        class_ids = torch.tensor(self._images.class_ids)
        tallies = torch.zeros(2, len(class_ids), dtype=torch.bool)
        start = 0
        with torch.inference_mode():
            for pixels in self._batches():
                stop = start + len(pixels)
                inputs = normalise(pixels.to(device), self._spec.mean, self._spec.std)
                logits = module(inputs).float().cpu()
                tallies[:, start:stop] = self._hits(logits, class_ids[start:stop])
                start = stop
        module.train(was_training)
        return self._accuracy(tallies, class_ids)

    def _hits(self, logits: torch.Tensor, class_ids: torch.Tensor) -> torch.Tensor:
        """Return whether top-1 and top-5 are right, (2, B) bool."""
        if not logits.isfinite().all():
            raise ShardError(
                f"the network's outputs on {self.name} are not finite: training diverged; "
                "lower lr or set clip_grad"
            )
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == class_ids[:, None]
        return torch.stack([best[:, 0], best.any(1)])

    def _accuracy(self, tallies: torch.Tensor, class_ids: torch.Tensor) -> Accuracy:
        top1, top5 = tallies.double().mean(1).tolist()
        num_classes = self._images.num_classes
        return Accuracy(
            num_images=len(class_ids),
            top1=top1,
            top5=top5,
            class_images=tuple(torch.bincount(class_ids, minlength=num_classes).tolist()),
            class_correct=tuple(
                torch.bincount(class_ids[tallies[0]], minlength=num_classes).tolist()
            ),
        )

    def _batches(self) -> Iterator[torch.Tensor]:
        if self._kept:
            yield from self._kept
            return
        read = []
        batches = _EvaluationBatches(self._images.paths, self._spec, self._batch_size)
        for pixels in iterate(batches, range(batches.num_batches), self._num_workers):
            if self._kept is not None:
                read.append(pixels)
            yield pixels
        if self._kept is not None:
            self._kept = read


class _EvaluationBatches(Dataset["torch.Tensor | FerkdError"]):
    """Batches of uint8 pixels by number; an error is returned, as `StepBatches` does."""

    def __init__(self, paths: tuple[str, ...], spec: PixelSpec, batch_size: int) -> None:
        self._paths = paths
        self._spec = spec
        self._batch_size = batch_size
        self.num_batches = -(-len(paths) // batch_size)

    def __getitem__(self, number: int) -> torch.Tensor | FerkdError:
        """Return (B, 3, h, w) uint8, or why there is none."""
        start = number * self._batch_size
        spec = self._spec
        try:
            crops = [
                evaluation_crop(
                    read_image(path),
                    spec.size,
                    spec.crop_ratio,
                    spec.interpolation,
                    spec.crop_mode,
                )
                for path in self._paths[start : start + self._batch_size]
            ]
        except FerkdError as error:
            return error
        return torch.stack(crops)

"""Top-1 and top-5 accuracy on a set of images.

Shapes: B images of a batch, L labels of the image that has most, C classes, (h, w) the network's
input size.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.utils.data import Dataset

from stages.shared.contract import NoProgress, Progress
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import evaluation_crop, normalise
from stages.shared.training.evaluation_sets import EvaluationSet, read_class_folder
from stages.shared.training.history import Accuracy
from stages.shared.training.loader import iterate, read_image
from store.errors import FerkdError, ShardError

__all__ = ["EvaluationSet", "Evaluator", "read_class_folder"]

KEPT_BYTES = 256 * 2**20
"""Sets whose pixels fit into this are read once and kept as uint8; larger ones stream."""


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

    def __call__(
        self, module: nn.Module, device: torch.device, progress: Progress | None = None
    ) -> Accuracy:
        """Return the accuracy of ``module``, which is on ``device``; its mode is restored.

        Computes in the precision that the weights have, outside of autocast. An image with several
        labels is right where one of them is predicted; its class is that of its folder.

        Args:
            module: gives (B, C) logits.
            device: where its weights lie.
            progress: told of every image.

        Raises:
            DataError: an image is missing or damaged.
            ShardError: the network's outputs are not finite.
        """
        progress = progress or NoProgress()
        was_training = module.training
        module.eval()
        tallies = torch.zeros(2, len(self._images.paths), dtype=torch.bool)
        start = 0
        with torch.inference_mode():
            for pixels in self._batches(device):
                stop = start + len(pixels)
                inputs = normalise(
                    pixels.to(device, non_blocking=True), self._spec.mean, self._spec.std
                )
                logits = module(inputs).float().cpu()
                tallies[:, start:stop] = self._hits(logits, self._labels(start, stop))
                progress.advance(len(pixels))
                start = stop
        module.train(was_training)
        return self._accuracy(tallies, torch.tensor(self._images.class_ids))

    def _labels(self, start: int, stop: int) -> torch.Tensor:
        """Return the labels of images ``start`` to ``stop``, (B, L) int64; -1 where there is none.

        L is that of these images.
        """
        if self._images.labels is None:
            return torch.tensor(self._images.class_ids[start:stop])[:, None]
        return _padded(self._images.labels[start:stop])

    def _hits(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return whether top-1 and top-5 are right, (2, B) bool."""
        if not logits.isfinite().all():
            raise ShardError(
                f"the network's outputs on {self.name} are not finite: training diverged; "
                "lower lr or set clip_grad"
            )
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        right = (best[:, :, None] == labels[:, None, :]).any(2)
        return torch.stack([right[:, 0], right.any(1)])

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

    def _batches(self, device: torch.device) -> Iterator[torch.Tensor]:
        if self._kept:
            yield from self._kept
            return
        read = []
        pin = device.type == "cuda" and self._num_workers > 0
        batches = _EvaluationBatches(self._images.paths, self._spec, self._batch_size)
        for pixels in iterate(
            batches, range(batches.num_batches), self._num_workers, pin_memory=pin
        ):
            if self._kept is not None:
                read.append(pixels)
            yield pixels
        if self._kept is not None:
            self._kept = read


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows])


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

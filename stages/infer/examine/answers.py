"""What teachers say of images whose class is known: how right they are, and how sure.

Shapes: N images, B images of a batch, C classes, E teachers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.infer.examine.panel import Panel
from stages.infer.examine.reading import Cut, centre_crops, pictures
from stages.shared.contract import Progress
from stages.shared.images import ImageError
from store.errors import DataError

SURE = 0.95
"""Maximum probability from which FerKD's preset drops a crop as too easy."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images to ask about, and what is right for each."""

    name: str
    """As reports call them: val."""
    folder: Path
    """Where they lie, for people."""
    paths: tuple[Path, ...]
    class_ids: NDArray[np.int64]
    """(N,) ground truth."""

    def take(self, rows: NDArray[np.int64]) -> "Images":
        """Some of them."""
        paths = tuple(self.paths[row] for row in rows)
        return Images(self.name, self.folder, paths, self.class_ids[rows])


@dataclass(frozen=True, slots=True)
class Answers:
    """What a teacher, or the average of several, says of N pictures."""

    classes: NDArray[np.int64]
    """(N,) ground truth."""
    first: NDArray[np.int64]
    """(N,) the class it says first."""
    in_five: NDArray[np.bool_]
    """(N,) whether the ground truth is among the first five."""
    max_prob: NDArray[np.float64]
    """(N,) its probability of the first class; NaN where an output is not finite."""

    @property
    def num_right(self) -> int:
        """Pictures whose first class is the ground truth."""
        return int((self.first == self.classes).sum())

    @property
    def top1(self) -> float:
        """Share of pictures whose first class is the ground truth."""
        return self.num_right / max(1, len(self.classes))

    @property
    def top5(self) -> float:
        """Share of pictures whose ground truth is among the first five classes."""
        return float(self.in_five.sum()) / max(1, len(self.classes))

    @property
    def num_not_finite(self) -> int:
        """Pictures with NaN or infinity among the outputs."""
        return int(np.isnan(self.max_prob).sum())

    @property
    def mean_max_prob(self) -> float:
        """Mean of the maximum probability."""
        return float(np.nanmean(self.max_prob)) if self.num_not_finite < len(self.first) else 0.0

    @property
    def share_sure(self) -> float:
        """Share of pictures at a maximum probability of .95 or more."""
        return float((self.max_prob >= SURE).sum()) / max(1, len(self.first))

    @classmethod
    def of(cls, logits: Tensor, classes: NDArray[np.int64]) -> "Answers":
        """Read ``logits`` (B, C) float32 of pictures of ``classes`` (B,)."""
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu().numpy()
        is_finite = torch.isfinite(logits).all(dim=1)
        highest = torch.softmax(logits, dim=1).amax(dim=1).double()
        highest = torch.where(is_finite, highest, torch.nan)
        in_five = (best == classes[:, None]).any(axis=1)
        right_first = np.where(is_finite.cpu().numpy(), best[:, 0], -1)
        return cls(classes, right_first, in_five & (right_first >= 0), highest.cpu().numpy())

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        """Those of several batches, one after the other."""
        names = ("classes", "first", "in_five", "max_prob")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True)
class Asked:
    """The answers of all teachers about the same pictures."""

    places: NDArray[np.int64]
    """(N,) which of the images that were asked for these are."""
    each: tuple[Answers, ...]
    """Of each teacher."""
    average: Answers
    """Of all together, which is what stage infer keeps; of one teacher its own."""
    failed: dict[int, str]
    """Places of images that could not be read, with the reason."""


def ask(
    panel: Panel,
    images: Images,
    progress: Progress,
    cut: Cut | None = None,
    *,
    go_on: Callable[[], bool] = lambda: True,
    batch_size: int | None = None,
    passed_over: tuple[type[Exception], ...] = (ImageError,),
) -> Asked:
    """Ask all teachers about images, as evaluation crops them, or as ``cut`` does.

    ``cut`` gives as many pictures of an image to every teacher. Stops where ``go_on``, which is
    asked after every batch, says so. Images that fail with an error of ``passed_over`` do not
    count.

    Raises:
        DataError: a teacher gives another number of classes, or no image can be read.
        RetryError: a file could not be read for a reason that may pass.
    """
    found: list[list[Answers]] = []
    places: list[NDArray[np.int64]] = []
    failed: dict[int, str] = {}
    size = batch_size or panel.config.batch_size
    cut = cut or centre_crops(panel.specs)
    for batch in pictures(images.paths, cut, size, panel.config.num_workers, passed_over):
        failed.update(batch.failed)
        if len(batch.places):
            repeats = len(batch.pixels[0]) // len(batch.places)
            classes = np.repeat(images.class_ids[batch.places], repeats)
            pairs = zip(panel.teachers, batch.pixels, strict=True)
            said = [panel.ask(teacher, pixels) for teacher, pixels in pairs]
            parts = [Answers.of(each, classes) for each in [*said, panel.average(said)]]
            found.append(parts)
            places.append(batch.places)
        progress.advance(len(batch.places) + len(batch.failed))
        if not go_on():
            break
    if not found:
        raise DataError(none_read(images, failed))
    joined = [Answers.joined(parts) for parts in zip(*found, strict=True)]
    return Asked(np.concatenate(places), tuple(joined[:-1]), joined[-1], failed)


def none_read(images: Images, failed: dict[int, str]) -> str:
    """What there is to say where not one image could be read."""
    if not failed:
        return f"{images.folder}: no images to ask about"
    place, reason = min(failed.items())
    return f"{images.paths[place]}: {reason}; none of the {len(failed)} images could be read"

"""Images whose ground truth is probably wrong, by what the teacher says of all their crops.

Shapes: N crops, S suspected images.

Confident learning (Northcutt et al. 2021) compares one prediction an image with thresholds a
class; here an image has hundreds of predictions, so that their agreement can be asked for: a
teacher that is wrong about one view of an image is seldom wrong about most of them, with one and
the same class. The rule is ours; docs/study.md says how much of planted noise it finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from stages.calibrate.crops import Crops
from stages.calibrate.steps import NoiseStep
from store.precision import round_probability


@dataclass(frozen=True, slots=True)
class Suspects:
    """Suspected images, ascending by image."""

    image_ids: NDArray[np.int64]
    """(S,)"""
    targets: NDArray[np.int64]
    """(S,) the ground truth in doubt."""
    teacher_classes: NDArray[np.int64]
    """(S,) what the teacher says instead."""
    agreement: NDArray[np.float64]
    """(S,) share of the image's crops that name this class with confidence."""
    max_prob: NDArray[np.float64]
    """(S,) mean maximum probability of the image's crops."""
    target_prob: NDArray[np.float64]
    """(S,) mean probability of the ground truth."""

    def __len__(self) -> int:
        """Number of suspected images."""
        return len(self.image_ids)

    @classmethod
    def join(cls, parts: Sequence["Suspects"]) -> "Suspects":
        """Return those of several shards, in their order; at least one shard."""
        return cls(
            *(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls))
        )


def find(step: NoiseStep, crops: Crops) -> Suspects:
    """Return the images that are suspected; crops without a prediction have no say."""
    assert crops.target_prob is not None and crops.top_class is not None
    first, per_image = crops.first, crops.per_image
    place = np.repeat(np.arange(len(first)), per_image)
    valid = ~crops.rejected
    num_valid = np.maximum(_sum(valid, place, len(first)), 1)
    mean_max = _sum(np.where(valid, crops.max_prob, 0), place, len(first)) / num_valid
    mean_target = _sum(np.where(valid, crops.target_prob, 0), place, len(first)) / num_valid

    least = round_probability(step.confidence, crops.precision)  # as the maxima were
    votes = valid & (crops.max_prob >= least)
    votes &= crops.top_class != crops.targets
    # More than half of an image's crops must agree, so an image has one such class at most.
    width = crops.num_classes
    pairs, counts = np.unique(
        place[votes] * width + crops.top_class[votes].astype(np.int64), return_counts=True
    )
    image, said = pairs // width, pairs % width
    agreement = counts / num_valid[image]
    found = (agreement >= step.agreement) & (mean_target[image] < step.target_below)
    image = image[found]
    return Suspects(
        image_ids=crops.image_ids[first[image]].astype(np.int64),
        targets=crops.targets[first[image]].astype(np.int64),
        teacher_classes=said[found],
        agreement=agreement[found],
        max_prob=mean_max[image],
        target_prob=mean_target[image],
    )


def rows_of(suspects: Suspects, crops: Crops) -> NDArray[np.bool_]:
    """Return which of (N,) crops are of suspected images."""
    return np.isin(crops.image_ids, suspects.image_ids)


def _sum(
    values: NDArray[np.generic], place: NDArray[np.int64], num_images: int
) -> NDArray[np.float64]:
    return np.bincount(place, weights=values, minlength=num_images).astype(np.float64)

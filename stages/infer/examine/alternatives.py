"""Other pixels than those that the parameters say: which would the teacher be right on?

The classic mistake is a mean and deviation that are not those of the weights. Every usual way of
making pixels is tried on the same images, and judged image by image: of two ways that differ in
nothing but luck neither wins.

Shapes: N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timm.data import constants

from stages.infer.config import Member
from stages.infer.examine.answers import Answers, Images
from stages.infer.examine.chance import is_more_often
from stages.infer.examine.panel import Panel
from stages.infer.examine.reading import centre_crops, pictures
from stages.infer.teachers import Teacher
from stages.shared.contract import Progress
from stages.shared.model_card import find_card
from stages.shared.model_config import PixelSpec, Triple
from stages.shared.pixel_spec import pixel_spec

LEAST_GAIN = 0.03
"""Share of images that another way must be right on beyond those of the parameters."""
SAID = "what its card or library says"
"""Name of the normalisation that holds where the parameters say none."""
_RISK = 1e-3
_MOST_IMAGES = 64
"""Of a batch: its pictures are cut in several ways at once."""

_NORMALISATIONS: dict[str, tuple[Triple, Triple]] = {
    "ImageNet's": (constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD),
    "0.5 and 0.5": (constants.IMAGENET_INCEPTION_MEAN, constants.IMAGENET_INCEPTION_STD),
    "CLIP's": (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD),
    "values from 0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "values from 0 to 255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    "0 to 255 less ImageNet's mean": (constants.IMAGENET_DEFAULT_MEAN, (1 / 255,) * 3),
}


@dataclass(frozen=True, slots=True)
class Alternative:
    """A way to make pixels."""

    name: str
    spec: PixelSpec
    bgr: bool
    """Whether blue stands first in what the network gets, after normalisation."""
    changes: tuple[str, ...]
    """Fields of the parameters that it differs in; of channels in another order none."""

    @property
    def changes_labels(self) -> bool:
        """Whether stage infer would label crops otherwise: how evaluation crops plays no part."""
        return self.bgr or not {"crop_ratio", "crop_mode"} & set(self.changes)


@dataclass(frozen=True, slots=True)
class Better:
    """An alternative that is much better than the pixels of the parameters."""

    alternative: Alternative
    num_right: int
    num_before: int
    """Right with the parameters' pixels."""
    num_images: int


def usual(member: Member, teacher: Teacher) -> tuple[Alternative, ...]:
    """What is tried of a teacher: normalisations and orders of channels, resizing, cropping."""
    own = teacher.model.spec
    said = _said_of(member, teacher)
    pairs = {"its own": (own.mean, own.std), SAID: (said.mean, said.std), **_NORMALISATIONS}
    found = [
        Alternative(
            name if not bgr else f"{name}, channels in the order BGR",
            replace(own, mean=mean, std=std),
            bgr,
            tuple(f for f, value in (("mean", mean), ("std", std)) if value != getattr(own, f)),
        )
        for bgr, turn in ((False, 1), (True, 1), (True, -1))
        for name, (mean, std) in _turned(pairs, turn).items()
    ]
    other = "bilinear" if own.interpolation == "bicubic" else "bicubic"
    mode = "center" if own.crop_mode == "squash" else "squash"
    others: list[tuple[str, Any]] = [
        ("interpolation", other), ("crop_mode", mode), ("crop_ratio", 0.875), ("crop_ratio", 1.0)
    ]  # fmt: skip
    found += [
        Alternative(f"{name} {value}", replace(own, **{name: value}), False, (name,))
        for name, value in others
    ]
    distinct = {(each.spec, each.bgr): each for each in reversed(found)}
    distinct.pop((own, False))
    return tuple(reversed(distinct.values()))


def _turned(pairs: dict[str, tuple[Triple, Triple]], turn: int) -> dict[str, tuple[Triple, Triple]]:
    """Mean and deviation by name, with ``turn`` -1 those of blue first."""
    if turn == 1:
        return pairs
    return {f"{name}, turned round": (mean[::-1], std[::-1]) for name, (mean, std) in pairs.items()}


def _said_of(member: Member, teacher: Teacher) -> PixelSpec:
    """Pixels as they would be without ``mean`` and ``std`` in the parameters."""
    plain = member.model_copy(update={"mean": None, "std": None})
    card = None if member.weights is None else find_card(Path(member.weights))
    return pixel_spec(plain, teacher.model.module, card)


def try_all(
    panel: Panel,
    teacher: Teacher,
    images: Images,
    alternatives: Sequence[Alternative],
    progress: Progress,
) -> tuple[Better, ...]:
    """Ways to make pixels that are much better: at most one that changes labels, and one other.

    Each image is decoded once.

    Raises:
        RetryError: a file could not be read for a reason that may pass.
    """
    ways = (Alternative("", teacher.model.spec, False, ()), *alternatives)
    specs = list(dict.fromkeys(_cut_of(each.spec) for each in ways))
    rows: list[NDArray[np.bool_]] = []
    size = min(panel.config.batch_size, _MOST_IMAGES)
    for batch in pictures(images.paths, centre_crops(specs), size, panel.config.num_workers):
        if not len(batch.places):
            continue
        classes = images.class_ids[batch.places]
        found = []
        for each in ways:
            pixels = batch.pixels[specs.index(_cut_of(each.spec))]
            said = panel.ask(teacher, pixels, each.spec, bgr=each.bgr)
            found.append(Answers.of(said, classes).first == classes)
            progress.advance(len(classes))
        rows.append(np.stack(found))
    if not rows:
        return ()
    right = np.concatenate(rows, axis=1)
    kinds = [[each.changes_labels == kind for each in alternatives] for kind in (True, False)]
    found_better = [
        better(right[0], right[1:][kind], [a for a, k in zip(alternatives, kind, strict=True) if k])
        for kind in kinds
    ]
    return tuple(each for each in found_better if each is not None)


def better(
    own: NDArray[np.bool_], right: NDArray[np.bool_], alternatives: Sequence[Alternative]
) -> Better | None:
    """The best of ``alternatives`` (A), where it is much better.

    ``own`` (N,) says on which images the parameters' pixels were right, ``right`` (A, N) the
    alternatives'.
    """
    if not len(alternatives):
        return None
    place = int(right.sum(axis=1).argmax())
    gained, lost = int((right[place] & ~own).sum()), int((own & ~right[place]).sum())
    if gained - lost < LEAST_GAIN * len(own):
        return None
    if not is_more_often(gained, lost, _RISK / len(alternatives)):
        return None
    return Better(alternatives[place], int(right[place].sum()), int(own.sum()), len(own))


def _cut_of(spec: PixelSpec) -> PixelSpec:
    """What of a spec is made before pixels are normalised."""
    return replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

"""`ferkd-pipeline teacher check`: how right the teachers are, and the classic mistakes by name.

Shapes: N images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stages.infer.config import Config, Member
from stages.infer.examine import alternatives, findings, names
from stages.infer.examine.alternatives import Better
from stages.infer.examine.answers import Answers, Asked, Images, ask
from stages.infer.examine.chance import verdict
from stages.infer.examine.findings import Finding
from stages.infer.examine.order import Order, other_order
from stages.infer.examine.panel import Panel
from stages.infer.examine.sampling import spread
from stages.infer.teachers import Teacher
from stages.shared.contract import Progress
from stages.shared.pixels import crop_resize
from store.random import CropPlan, draw_boxes, draw_flips, path_hashes

NUM_TRIED = 256
"""Images on which other pixels are tried, and of which crops are drawn."""
CROPS_AN_IMAGE = 4


@dataclass(frozen=True, slots=True)
class CropDraw:
    """How stage sample draws crops; what else it records of them is left out here."""

    plan: CropPlan
    flip: float
    seed: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found."""

    images: Images
    """Those that were asked about."""
    class_names: tuple[str, ...]
    panel: Panel
    asked: Asked
    crops: Asked | None
    """Answers about random crops of some of the images; None where nobody says how to draw them."""
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What must be mended before labels are made."""
        return tuple(each for each in self.findings if each.is_problem)


def check(
    panel: Panel,
    class_names: tuple[str, ...],
    images: Images,
    progress: Progress,
    *,
    crops: CropDraw | None = None,
    limit: int | None = None,
) -> Checked:
    """Ask all teachers about images of known classes; find what is wrong, and name it.

    Args:
        panel: the teachers.
        class_names: (C,) of the training, in their order.
        images: of a validation set; some classes may lack.
        progress: told of every forward.
        crops: how to draw random crops, to say how sure the teacher is of those.
        limit: ask about so many images at most, spread over the classes.

    Raises:
        DataError: a teacher gives another number of classes, or no image can be read.
        RetryError: a file could not be read for a reason that may pass.
    """
    if limit is not None:
        # Four images a class, where there are so many: one alone says nothing about the order.
        images = images.take(spread(images.class_ids, limit, per_class=4))
    progress.start(f"ask about {images.name}", len(images.paths), "images")
    asked = ask(panel, images, progress)
    some = images.take(spread(images.class_ids, NUM_TRIED))
    found = [
        finding
        for teacher, answers in zip(panel.teachers, asked.each, strict=True)
        for finding in _of_teacher(panel, teacher, answers, class_names, some, progress)
    ]
    found += _of_all(panel, asked, images, class_names, bool(found))
    drawn = None if crops is None else _ask_of_crops(panel, some, crops, progress)
    return Checked(images, class_names, panel, asked, drawn, tuple(found))


def _of_teacher(
    panel: Panel,
    teacher: Teacher,
    answers: Answers,
    class_names: Sequence[str],
    some: Images,
    progress: Progress,
) -> list[Finding]:
    found = []
    if answers.num_not_finite:
        found.append(findings.not_finite(teacher, answers.num_not_finite, len(answers.first)))
    if problem := names.order_problem(_member(panel.config, teacher), class_names):
        found.append(findings.class_names(teacher, problem))
    is_said = answers.first >= 0
    order = other_order(answers.classes[is_said], answers.first[is_said], class_names)
    better: tuple[Better, ...] = ()
    if answers.top1 < 1 - alternatives.LEAST_GAIN:
        better = _other_pixels(panel, teacher, some, progress)
    # Channels turned round can look like classes turned round: the pixels are the simpler cause.
    if order is not None and not any(_explains(each, order) for each in better):
        found.append(findings.class_order(teacher, order, class_names))
        # Odd pixels may please a teacher of another order, too, but not as well as that order does.
        better = tuple(
            each for each in better if _share(each) > order.num_matched / order.num_judged
        )
    found += [findings.pixels(teacher, each) for each in better]
    is_near = verdict(answers.num_right, len(answers.classes), len(class_names)) == "near chance"
    if is_near and len(panel.teachers) > 1:
        found.append(findings.near_chance(teacher.key, answers, len(class_names), bool(found)))
    return found


def _other_pixels(
    panel: Panel, teacher: Teacher, some: Images, progress: Progress
) -> tuple[Better, ...]:
    tried = alternatives.usual(_member(panel.config, teacher), teacher)
    total = (1 + len(tried)) * len(some.paths)
    progress.start(f"try other pixels ({teacher.key})", total, "images")
    return alternatives.try_all(panel, teacher, some, tried, progress)


def _explains(better: Better, order: Order) -> bool:
    is_as_good = _share(better) >= order.num_matched / order.num_judged
    return better.alternative.changes_labels and is_as_good


def _share(better: Better) -> float:
    return better.num_right / better.num_images


def _of_all(
    panel: Panel,
    asked: Asked,
    images: Images,
    class_names: Sequence[str],
    is_explained: bool,
) -> list[Finding]:
    found, answers = [], asked.average
    told = verdict(answers.num_right, len(answers.classes), len(class_names))
    key = panel.teachers[0].key if len(panel.teachers) == 1 else None
    if told == "near chance":
        found.append(findings.near_chance(key, answers, len(class_names), is_explained))
    elif told == "unclear":
        found.append(findings.too_few(len(answers.classes), len(class_names)))
    if asked.failed:
        failed = {str(images.paths[place]): reason for place, reason in asked.failed.items()}
        found.append(findings.unreadable(failed))
    return found


def _ask_of_crops(panel: Panel, some: Images, crops: CropDraw, progress: Progress) -> Asked:
    progress.start("ask about random crops", len(some.paths), "images")
    size = max(1, panel.config.batch_size // CROPS_AN_IMAGE)

    def cut(place: int, image: NDArray[np.uint8]) -> list[Tensor]:
        hashes = path_hashes([str(some.paths[place].relative_to(some.folder))])
        height, width = np.array([image.shape[0]]), np.array([image.shape[1]])
        boxes = draw_boxes(crops.seed, hashes, height, width, CROPS_AN_IMAGE, crops.plan)[0]
        flips = draw_flips(crops.seed, hashes, CROPS_AN_IMAGE, crops.flip)[0]
        return [
            crop_resize(image, boxes, flips, spec.size, spec.interpolation) for spec in panel.specs
        ]

    return ask(panel, some, progress, cut, batch_size=size)


def place(teacher: Teacher) -> int:
    """Which of the teachers in params.yaml it is."""
    _, _, listed = teacher.key.partition("[")
    return int(listed.removesuffix("]")) if listed else 0


def _member(config: Config, teacher: Teacher) -> Member:
    """What the parameters say of a teacher."""
    return config.members[place(teacher)]

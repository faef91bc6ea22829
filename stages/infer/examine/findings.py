"""What is wrong with a teacher, in words that say what to do.

Problems mean that labels would be wrong or meaningless; hints are worth knowing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from stages.infer.examine.alternatives import SAID, Better
from stages.infer.examine.answers import Answers
from stages.infer.examine.order import Order
from stages.infer.teachers import Teacher
from stages.shared.contract import Json

Kind = Literal[
    "near_chance", "class_order", "class_names", "pixels", "evaluation_pixels", "not_finite",
    "unreadable", "too_few", "outputs",
]  # fmt: skip

_NUM_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    kind: Kind
    is_problem: bool
    """Whether labels of this teacher should not be made as things are."""
    message: str
    key: str | None = None
    """The teacher's place in params.yaml; None: of all together."""
    settings: dict[str, Json] = field(default_factory=dict)
    """Keys of params.yaml and the values to give them; null: leave them out."""


def near_chance(key: str | None, answers: Answers, num_classes: int, is_explained: bool) -> Finding:
    """That the teacher knows no more than a guess."""
    who = "the average" if key is None else key
    advice = (
        "" if is_explained
        else ": its normalisation or its order of classes is probably not that of these images, or "
        "its weights are not trained"
    )  # fmt: skip
    return Finding(
        "near_chance",
        True,
        f"{who} is near chance: right on {answers.num_right:,} of {len(answers.classes):,} images, "
        f"where guessing among {num_classes:,} classes is right on "
        f"{len(answers.classes) / num_classes:,.1f}{advice}",
        key,
    )


def class_order(teacher: Teacher, order: Order, names: Sequence[str]) -> Finding:
    """That the teacher counts the classes in another order."""
    examples = [
        f"images of {names[each.class_id]} (class {each.class_id}) are mostly answered as class "
        f"{each.answered} ({names[each.answered]})"
        for each in order.moved[:_NUM_EXAMPLES]
    ]
    rule = "" if order.rule is None else f", {order.rule}"
    return Finding(
        "class_order",
        True,
        f"{teacher.key} counts {len(order.moved):,} of {order.num_classes:,} classes in another "
        f"order than the folders{rule}: right on {order.num_right:,} of {order.num_judged:,} "
        f"images, in that order on {order.num_matched:,}; {'; '.join(examples)}; docs/teachers.md "
        "shows how to bring them together",
        teacher.key,
    )


def class_names(teacher: Teacher, problem: str) -> Finding:
    """That the names of the folders are not those of the teacher's classes."""
    advice = "take the folders of these classes alone, or weights of the folders' classes"
    return Finding("class_names", True, f"{teacher.key}: {problem}; {advice}", teacher.key)


def pixels(teacher: Teacher, found: Better) -> Finding:
    """That other pixels are much better than those of the parameters."""
    way = found.alternative
    settings: dict[str, Json] = {}
    for name in way.changes:
        value = getattr(way.spec, name)
        rounded = [round(each, 6) for each in value] if isinstance(value, tuple) else value
        settings[f"{teacher.key}.{name}"] = rounded
    advice = [f"set {key}: {value}" for key, value in settings.items()]
    if way.name == SAID:
        advice = [f"leave {' and '.join(settings)} out of params.yaml"]
        settings = dict.fromkeys(settings)
    if way.bgr:
        advice.insert(0, "let a function of yours turn the channels round (docs/teachers.md)")
    if way.changes_labels:
        effect = ""
    else:
        effect = "; it matters to accuracies alone, labels are made of crops"
    return Finding(
        "pixels" if way.changes_labels else "evaluation_pixels",
        way.changes_labels,
        f"{teacher.key}: with {way.name} the teacher is right on {found.num_right:,} of "
        f"{found.num_images:,} images, with the present pixels on {found.num_before:,}: "
        f"{' and '.join(advice)}{effect}",
        teacher.key,
        settings,
    )


def not_finite(teacher: Teacher, num: int, num_images: int) -> Finding:
    """That outputs are NaN or infinite."""
    return Finding(
        "not_finite",
        True,
        f"{teacher.key} gave NaN or infinity for {num:,} of {num_images:,} images; try "
        "infer.precision float32 or other weights",
        teacher.key,
    )


def unreadable(failed: dict[str, str]) -> Finding:
    """That images could not be read and do not count."""
    path, reason = min(failed.items())
    more = f" and {len(failed) - 1:,} more" if len(failed) > 1 else ""
    return Finding(
        "unreadable", False, f"{path}{more} could not be read and do not count: {reason}"
    )


def too_few(num_images: int, num_classes: int) -> Finding:
    """That there are too few images to tell a teacher from a guess."""
    return Finding(
        "too_few",
        False,
        f"{num_images:,} {'image' if num_images == 1 else 'images'} cannot tell this teacher of "
        f"{num_classes:,} classes from a guess; ask about more",
    )

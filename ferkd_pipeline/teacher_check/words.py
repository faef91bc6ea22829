"""What was found, as tables and sentences."""

from collections.abc import Sequence

from ferkd_pipeline.pages.table import Table
from stages.infer.examine.answers import SURE, Answers
from stages.infer.examine.projections import CheckedProjection
from stages.infer.examine.run import Checked, place

_CALIBRATED = 0.05
_SURE_TEACHER = 0.02
"""Share of crops at .95 or more from which FerKD's preset would take away too much; of the teacher
that it was made for it is .0033."""


def head(found: Checked | CheckedProjection) -> str:
    """What was asked, and how."""
    images, panel = found.images, found.panel
    return (
        f"{images.name} ({images.folder}): {len(images.paths):,} images, on {panel.device.type} "
        f"in {panel.config.precision}"
    )


def accuracies(found: Checked) -> Table:
    """How right and how sure each teacher is, and the average."""
    rows = [_row(key, answers) for key, answers in rows_of(found)]
    header = ("teacher", "top-1 %", "top-5 %", "max. prob.", f">= {SURE} %")
    return Table(
        f"Teachers on {len(found.asked.places):,} images of {len(found.class_names):,} classes",
        header,
        tuple(rows),
        ("max. prob.: mean of the maximum probability. Pictures: the teacher's own centre crops.",),
    )


def rows_of(found: Checked) -> list[tuple[str, Answers]]:
    """Each teacher's answers by its key in params.yaml; of several, the average too."""
    panel, asked = found.panel, found.asked
    pairs = sorted(zip(panel.teachers, asked.each, strict=True), key=lambda pair: place(pair[0]))
    rows = [(f"{teacher.key} ({teacher.name})", answers) for teacher, answers in pairs]
    if len(rows) > 1:
        rows.append((f"average of {panel.config.average}", asked.average))
    return rows


def _row(name: str, answers: Answers) -> tuple[str, ...]:
    return (
        name,
        f"{100 * answers.top1:.2f}",
        f"{100 * answers.top5:.2f}",
        f"{answers.mean_max_prob:.3f}",
        f"{100 * answers.share_sure:.2f}",
    )


def sureness(found: Checked) -> list[str]:
    """How sure the teacher is, and what that means for calibration."""
    answers = found.asked.average
    lines = []
    gap = answers.mean_max_prob - answers.top1
    if abs(gap) > _CALIBRATED and not found.problems:
        what = "surer than it is right" if gap > 0 else "less sure than it is right"
        lines.append(
            f"It is {what}: mean maximum probability {answers.mean_max_prob:.3f}, right on "
            f"{answers.top1:.3f}."
        )
    if found.crops is None:
        return lines
    crops = found.crops.average
    lines.append(
        f"On {len(crops.classes):,} random crops, drawn as by stage sample: right on "
        f"{crops.top1:.1%}, mean maximum probability {crops.mean_max_prob:.3f}, "
        f"{crops.share_sure:.1%} of them at {SURE} or more."
    )
    if crops.share_sure > _SURE_TEACHER and not found.problems:
        lines.append(
            "FerKD's preset `ferkd` would drop these; it was made for a teacher with .3 % of them. "
            "Take `ferkd_share` or `auto` (docs/calibration.md)."
        )
    return lines


def projection_lines(found: CheckedProjection) -> list[str]:
    """What can be said of a projection head."""
    [teacher] = found.panel.teachers
    return [
        f"{teacher.key} ({teacher.name}): {found.panel.num_outputs:,} outputs an image, the "
        f"largest {found.highest:.4g}; between images they differ by {found.spread:.2g} of their "
        "size.",
        "Outputs of a projection head are neither right nor wrong: there is no accuracy.",
    ]


def verdict(found: Checked | CheckedProjection) -> str:
    """The last line, where nothing is wrong."""
    if isinstance(found, CheckedProjection):
        return "Nothing found that speaks against these outputs."
    return "Nothing found that speaks against labels of this teacher."


def complaint(found: Checked | CheckedProjection) -> str:
    """The error, where something is wrong."""
    titles = {
        "near_chance": "near chance",
        "class_order": "another order of classes",
        "class_names": "other classes",
        "pixels": "other pixels than its weights want",
        "not_finite": "NaN or infinity",
        "outputs": "outputs that cannot be used",
    }
    kinds: Sequence[str] = list(dict.fromkeys(each.kind for each in found.problems))
    said = ", ".join(titles[kind] for kind in kinds)
    return f"infer.teacher does not fit these images ({said}); see above"

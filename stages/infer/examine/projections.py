"""What can be checked of a self-supervised teacher: its outputs are neither right nor wrong.

Shapes: N images, D outputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.infer.examine import findings
from stages.infer.examine.answers import Images, none_read
from stages.infer.examine.findings import Finding
from stages.infer.examine.panel import Panel
from stages.infer.examine.reading import centre_crops, pictures
from stages.infer.examine.sampling import spread
from stages.infer.projection import HIGHEST
from stages.shared.contract import Progress
from store.errors import DataError

NUM_IMAGES = 256
_ALIKE = 1e-3


@dataclass(frozen=True, slots=True)
class CheckedProjection:
    """What a check of a projection head found."""

    images: Images
    panel: Panel
    highest: float
    """Largest absolute output among the finite ones."""
    spread: float
    """Standard deviation of an output between images, beside the outputs' root mean square."""
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What must be mended before labels are made."""
        return tuple(each for each in self.findings if each.is_problem)


def check_projection(
    panel: Panel, images: Images, progress: Progress, *, limit: int | None = None
) -> CheckedProjection:
    """Ask a projection head about images: the number of its outputs, finite, not all alike.

    Raises:
        DataError: it gives another number of outputs, or no image can be read.
        RetryError: a file could not be read for a reason that may pass.
    """
    images = images.take(spread(images.class_ids, limit or NUM_IMAGES))
    [teacher] = panel.teachers
    progress.start(f"ask about {images.name}", len(images.paths), "images")
    parts: list[Tensor] = []
    failed: dict[int, str] = {}
    cut, config = centre_crops(panel.specs), panel.config
    for batch in pictures(images.paths, cut, config.batch_size, config.num_workers):
        failed.update(batch.failed)
        if len(batch.places):
            parts.append(panel.ask(teacher, batch.pixels[0]).cpu())
        progress.advance(len(batch.places) + len(batch.failed))
    if not parts:
        raise DataError(none_read(images, failed))
    outputs = torch.cat(parts)
    is_finite = torch.isfinite(outputs).all(dim=1)
    finite = outputs[is_finite].double()
    found = []
    if num := int((~is_finite).sum()):
        found.append(findings.not_finite(teacher, num, len(outputs)))
    highest = float(finite.abs().max()) if len(finite) else 0.0
    scale = float(finite.square().mean().sqrt()) if len(finite) else 0.0
    between = float(finite.std(dim=0, correction=0).mean()) / scale if scale else 0.0
    found += _oddities(panel, highest, between, len(finite))
    if failed:
        by_path = {str(images.paths[place]): reason for place, reason in failed.items()}
        found.append(findings.unreadable(by_path))
    return CheckedProjection(images, panel, highest, between, tuple(found))


def _oddities(panel: Panel, highest: float, between: float, num: int) -> list[Finding]:
    [teacher] = panel.teachers
    found = []
    if highest > HIGHEST:
        message = (
            f"{teacher.key} gave {highest:.6g}, and outputs are stored as float16, up to "
            f"{HIGHEST:g}; scale its last layer down"
        )
        found.append(Finding("outputs", True, message, teacher.key))
    if num > 1 and between < _ALIKE:
        message = (
            f"{teacher.key} says the same of every image (outputs differ by {between:.1e} of their "
            "size): its weights are not trained, or its pixels are not those it was trained on"
        )
        found.append(Finding("outputs", True, message, teacher.key))
    return found

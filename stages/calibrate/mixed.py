"""What may be calibrated where crops hold a part of another image (``sample.mix``).

The ground truth of such a crop is two classes, and an overlay can write only one. So steps that
write or look at ground truth are refused; dropping crops by the teacher's maximum is left.
"""

from collections.abc import Iterable

from stages.calibrate.steps import FerkdStep, Step
from store import entries, mixing
from store.entries import Entry
from store.errors import ParamsError
from store.layout import Layout


def is_mixed(layout: Layout, soft: Entry) -> bool:
    """Whether crops of a shard's labels are mixed."""
    crops = entries.find_entry(layout, "crops", soft.stem)
    return crops is not None and mixing.has_mix(crops)


def check(name: str, steps: Iterable[Step], layout: Layout, soft: Entry) -> None:
    """Refuse a calibration of mixed crops that would need one ground truth of them.

    Raises:
        ParamsError: it names the calibration and what of which step is not allowed.
    """
    if not is_mixed(layout, soft):
        return
    for step in steps:
        if why := _needs_truth(step):
            raise ParamsError(
                f"calibrate.{name}: {why}, but the store's crops are mixed and have two (see "
                "sample.mix); allowed: the step ferkd with preset custom, which only drops"
            )


def _needs_truth(step: Step) -> str | None:
    """What of a step needs one ground-truth class a crop."""
    if not isinstance(step, FerkdStep):
        return f"the step {step.step} needs one ground-truth class a crop"
    if step.on == "target":
        return "on: target compares with one ground-truth class a crop"
    if step.preset != "custom":
        return f"the step ferkd with preset {step.preset} softens to one ground-truth class"
    if step.soften_to is not None or step.soften_lowest is not None:
        given = "soften_to" if step.soften_to is not None else "soften_lowest"
        return f"{given} softens to one ground-truth class"
    return "eps: auto counts crops of one ground-truth class" if step.eps == "auto" else None

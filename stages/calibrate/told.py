"""What a fit chose, in sentences for people."""

from collections.abc import Sequence
from typing import Any

from stages.calibrate.fit import Fit, StepFit
from stages.calibrate.steps import FerkdStep, Step
from stages.calibrate.thresholds import Thresholds

_SAID = {"max": "the teacher's maximum", "target": "the ground truth's probability"}


def fit_lines(name: str, steps: Sequence[Step], fit: Fit) -> tuple[str, ...]:
    """Return what was chosen from the data: nothing for steps whose numbers were all given."""
    lines = []
    for step, fitted in zip(steps, fit.steps, strict=True):
        if fitted.thresholds is not None and _is_chosen(step):
            lines.append(f"{name}: {_chosen(step, fitted, fit)}")
        if fitted.cutoff is not None:
            cutoff = fitted.cutoff
            lines.append(
                f"{name}: select: {cutoff.num_taught:,} of {cutoff.num_scored:,} scored images"
                + (f", scores from {cutoff.score:.6g} up" if cutoff.score is not None else "")
            )
    return tuple(lines)


def intervals(limits: Thresholds) -> str:
    """Return intervals in words: drop below 0.05, soften up to 0.3, drop from 0.95."""
    words = []
    if limits.drop_below is not None:
        words.append(f"drop below {limits.drop_below:g}")
    if limits.drop_up_to is not None:
        words.append(f"drop up to {limits.drop_up_to:g}")
    if limits.soften_to is not None:
        starts = limits.drop_below if limits.drop_up_to is None else limits.drop_up_to
        has_gap = limits.soften_from is not None and limits.soften_from != starts
        start = f"from {limits.soften_from:g} " if has_gap else ""
        words.append(f"soften {start}up to {limits.soften_to:g}")
    if limits.drop_from is not None:
        words.append(f"drop from {limits.drop_from:g}")
    return ", ".join(words) or "keep all"


def _is_chosen(step: Step) -> bool:
    return isinstance(step, FerkdStep) and (
        step.preset in ("auto", "ferkd_share") or step.uses_shares or step.eps == "auto"
    )


def _chosen(step: Step, fitted: StepFit, fit: Fit) -> str:
    assert isinstance(step, FerkdStep) and fitted.thresholds is not None
    line = f"{step.preset} on {_SAID[step.on]}: {intervals(fitted.thresholds)}; eps {fitted.eps:g}"
    if fitted.stopped_by:
        caps = " and ".join(f"{name} {cap:g}" for name, cap in fitted.stopped_by.items())
        line += f"; stopped by {caps}: crops beyond are no better"
    if step.preset != "auto" and step.eps != "auto":
        return line
    right = [
        f"{100 * _accuracy(found, step.on):.1f} % of {source} crops"
        for source, found in fit.reliability.items()
        if isinstance(found, dict)
    ]
    line += f"; the teacher is right on {' and '.join(right)}"
    if "validation" not in fit.reliability:
        line += ", which it may have learned by heart: name a store of validation images"
    return line


def _accuracy(found: dict[str, Any], on: str) -> float:
    return float(found[on]["accuracy"]) if on in found else float("nan")

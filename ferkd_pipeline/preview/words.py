"""A preview in words and cells, alike for the terminal and the page."""

import math
from collections.abc import Sequence

from ferkd_pipeline.pages.table import Table
from stages.calibrate.fit import StepFit
from stages.calibrate.steps import FerkdStep, NoiseStep, ReviseStep, SelectStep, Step
from stages.calibrate.survey import Preview
from stages.calibrate.told import intervals
from store.layout import calibrated

FEW_PATHS = 5
"""Suspected images that are named where there are more."""

NO_SUSPECTS = (
    "A teacher that was trained on these very labels can hardly contradict them; the highest "
    "scores of el2n or loss find them then (docs/calibration.md)."
)


def on_of(seen: Preview) -> str:
    """Return the probability that thresholds are compared with: `max` or `target`."""
    return next((step.on for step in seen.recipe.steps if isinstance(step, FerkdStep)), "max")


def warnings(seen: Preview) -> list[str]:
    """Return what deserves attention, as `stage calibrate` says it."""
    return [f"{seen.recipe.name}: {warning}" for warning in seen.counts.warnings()]


def looked_at(seen: Preview) -> str:
    """Return how many crops the numbers are of."""
    images = f"{seen.counts.num_images:,} images"
    if not seen.is_sample:
        line = f"Counted: all {seen.num_all_crops:,} crops of {images}."
        if seen.num_entropies < seen.counts.num_crops:
            line += f" Entropies are estimates from {seen.num_entropies:,} of them."
        return line
    return (
        f"Estimates from {seen.num_crops:,} of {seen.num_all_crops:,} crops, {images}, evenly over "
        "the store; --all counts every crop."
    )


def step_lines(seen: Preview) -> list[str]:
    """Return each step with what was chosen for it."""
    return [
        _step(step, fitted) for step, fitted in zip(seen.recipe.steps, seen.fit.steps, strict=True)
    ]


def _step(step: Step, fitted: StepFit) -> str:
    if isinstance(step, FerkdStep):
        assert fitted.thresholds is not None and fitted.eps is not None
        on = "the maximum" if step.on == "max" else "the ground truth's probability"
        said = f"ferkd, preset {step.preset}, by {on}: {intervals(fitted.thresholds)}"
        said += f"; eps {fitted.eps:g}, spread {step.spread}"
        if fitted.stopped_by:
            caps = " and ".join(f"{name} {cap:g}" for name, cap in fitted.stopped_by.items())
            said += f"; stopped by {caps}: crops beyond are no better"
        return said
    if isinstance(step, ReviseStep):
        which = "labels whose first class is wrong" if step.where == "wrong" else "all labels"
        return f"revise {which}: eta {step.eta:g}, so a margin of {1 - step.eta:g}"
    if isinstance(step, SelectStep):
        assert fitted.cutoff is not None
        chosen = f"{fitted.cutoff.num_taught:,} of {fitted.cutoff.num_scored:,} scored images"
        return f"select by {step.scores}: {chosen}, teacher's weight {step.teacher_weight:g}"
    if isinstance(step, NoiseStep):
        return (
            f"noise: suspected where {step.agreement:.0%} of an image's crops name one other class "
            f"with {step.confidence:g} or more, and the ground truth has less than "
            f"{step.target_below:g}"
        )
    return "truth: the ground truth alone"


def lines(seen: Preview) -> list[str]:
    """Return what a recipe does beside its actions: groups, images without crops, entropy .."""
    counts, shares = seen.counts, seen.counts.shares()
    found = []
    if counts.groups:
        groups = [f"{name.replace('_', ' ')} {shares[name]:.2%}" for name in counts.groups]
        found.append(f"FerKD's groups: {', '.join(groups)}.")
        found.append(
            f"{counts.restored_images:,} images would lose all their crops"
            + (
                f": these {counts.restored_crops:,} stay as softened ground truth."
                if counts.restored_images
                else "."
            )
        )
    if counts.taught_images is not None:
        found.append(
            f"{counts.taught_images:,} of {counts.num_images:,} images are taught by the teacher."
        )
    found.append(
        f"Label entropy: {seen.entropy_before:.3f} -> {seen.entropy_after:.3f} nats a crop, as "
        f"many as {effective(seen.entropy_before)} -> {effective(seen.entropy_after)} equally "
        "probable classes."
    )
    return found


def effective(entropy: float) -> str:
    """Return how many equally probable classes have this entropy, in nats."""
    return f"{math.exp(entropy):.2f}"


def suspect_lines(seen: Preview) -> list[str]:
    """Return how many images are suspected, the first, and where to find all."""
    if seen.suspects is None:
        return []
    num = len(seen.suspects)
    found = [f"{num:,} of {seen.counts.num_images:,} images are suspected of a wrong label."]
    if not num:
        return [*found, f"  {NO_SUSPECTS}"]
    images = seen.inputs.images
    names = images.class_names
    rows = zip(
        seen.suspects.image_ids.tolist(),
        seen.suspects.targets.tolist(),
        seen.suspects.teacher_classes.tolist(),
        seen.suspects.agreement.tolist(),
        strict=True,
    )
    for image_id, target, teacher, agreement in list(rows)[:FEW_PATHS]:
        said = f"labelled {names[target]}, {agreement:.0%} of its crops say {names[teacher]}"
        found.append(f"  {images.paths[image_id]}: {said}")
    where = f"{seen.inputs.layout.folder(calibrated(seen.recipe.name))}/_suspects-*.parquet"
    rest = "" if num <= FEW_PATHS else "All of these: --json. "
    found.append(f"  {rest}Of the whole store, once the stage has run: {where}")
    return found


def actions(seen: Preview, title: str) -> Table:
    """Return crops and images by action."""
    counts, total = seen.counts, max(1, sum(seen.counts.actions.values()))
    images = max(1, counts.num_images)
    rows = tuple(
        (
            name,
            f"{num:,}",
            f"{100 * num / total:.2f}",
            f"{counts.images[name]:,}",
            f"{100 * counts.images[name] / images:.2f}",
        )
        for name, num in counts.actions.items()
        if num
    )
    header = ("action", "crops", "% of crops", "images", "% of images")
    notes = ("Images: those with at least one such crop.",)
    return Table(title, header, rows, notes)


def comparison(previews: Sequence[Preview]) -> Table:
    """Return calibrations side by side."""
    names = [
        name
        for name in ("keep", "drop", "soften", "revise", "truth")
        if any(seen.counts.actions.get(name) for seen in previews)
    ]
    rows = []
    for seen in previews:
        shares, counts = seen.counts.shares(), seen.counts
        suspected = "-" if counts.suspected_images is None else f"{counts.suspected_images:,}"
        rows.append(
            (
                seen.recipe.name,
                *(f"{100 * shares[name]:.2f}" for name in names),
                f"{counts.restored_images:,}",
                suspected,
                f"{seen.entropy_after:.3f}",
                effective(seen.entropy_after),
            )
        )
    before = previews[0]
    plain = ("the teacher's labels", *("" for _ in names), "", "")
    rows.insert(0, (*plain, f"{before.entropy_before:.3f}", effective(before.entropy_before)))
    header = (
        *("calibration", *(f"{name} %" for name in names)),
        *("lose all", "suspected", "entropy", "as classes"),
    )
    notes = (
        "Lose all: images that would lose all their crops, and keep them softened. As classes: "
        "equally probable ones of that entropy.",
    )
    return Table("Side by side", header, tuple(rows), notes)


def next_line(num_named: int, tried: Sequence[Preview]) -> str:
    """Return what to do to have calibrations: those named in params.yaml, and those tried."""
    names = [seen.recipe.name for seen in tried]
    if not names:
        it = "it as an overlay" if num_named == 1 else "each as an overlay"
        return f"Next: `ferkd-pipeline stage calibrate` writes {it}."
    if len(names) == 1:
        what = f"the steps into params.yaml under calibrate.{names[0]}, or another name,"
    else:
        what = (
            f"the steps that you choose of {', '.join(names)} into params.yaml under calibrate, "
            "each list by a name,"
        )
    return f"Next: put {what} and run `ferkd-pipeline stage calibrate`."

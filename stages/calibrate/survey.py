"""What a calibration would do, without writing anything: the numbers of `calibrate preview`.

Shapes: N crops of a block, I images.

A store of up to `pieces.LOOKED_AT` crops is looked at whole. Of a larger one pieces are read that
lie evenly over all its shards, and of these every so many images, which takes seconds at any size;
all numbers are then of these crops, and the shares are estimates. With `everything` fits and counts
are of all crops, exactly as the stage makes them; entropies stay those of the sample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stages.calibrate import core, mixed, whole_store
from stages.calibrate import fit as fitting
from stages.calibrate.counts import Counts
from stages.calibrate.crops import Crops
from stages.calibrate.fit import Evidence, Fit
from stages.calibrate.label_entropy import label_entropy
from stages.calibrate.pieces import Pieces, rows_of_image
from stages.calibrate.recipe import Inputs, Recipe, is_taught, read_crops
from stages.calibrate.reliability import Reliability
from stages.calibrate.served import ServedLabels
from stages.calibrate.suspects import Suspects
from stages.calibrate.validation import validation_crops
from stages.shared.contract import Progress, Source
from store import images, scan
from store.entries import Entry
from store.images import ImageTable
from store.inspection.label_rows import LabelRows
from store.overlay import Action, Overlay
from store.soft_part import SoftPart


@dataclass(frozen=True, slots=True)
class ImageActions:
    """What happens to the crops of each image, for people to choose some to look at."""

    image_ids: NDArray[np.int32]
    """(I,) ascending."""
    crops: NDArray[np.int32]
    """(I, len(Action)) crops by action, in the order of `Action`."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What one recipe would do to the crops that were looked at."""

    recipe: Recipe
    fit: Fit
    counts: Counts
    entropy_before: float
    """Mean entropy of the teacher's stored labels, nats, over all crops with a prediction."""
    entropy_after: float
    """Mean entropy of the labels that training would be served, nats; dropped crops have none."""
    num_entropies: int
    """Crops that both are of, rejected ones left out; those of the sample where there is one."""
    training: Mapping[str, Reliability]
    """Crops by the teacher's maximum (`max`) and, where thresholds are compared with it, by what it
    gives the ground truth (`target`)."""
    validation: Mapping[str, Reliability]
    """The same of the validation store that a step names; empty without one."""
    suspects: Suspects | None
    """Images suspected of a wrong label; None without the step noise."""
    num_crops: int
    """Crops that were counted, rejected ones included."""
    num_all_crops: int
    """Crops of the store."""
    looked_at: ImageActions
    """Images of the sample."""
    softs: tuple[Entry, ...]
    """Labels of all shards."""
    inputs: Inputs
    """What single images are looked at with; see `close_up`. Its labels are those of shard 0."""

    @property
    def is_sample(self) -> bool:
        """Whether only some of the crops were counted."""
        return self.num_crops < self.num_all_crops


def preview(
    recipes: Sequence[Recipe], source: Source, progress: Progress, *, everything: bool = False
) -> list[Preview]:
    """Fit recipes and apply them, in memory.

    Raises:
        DataError: labels or scores are missing, do not fit together, or hold no probabilities.
        ParamsError: a recipe drops every crop.
    """
    table = images.load(source.layout)
    softs = whole_store.all_soft(source, table)
    for each in recipes:
        mixed.check(each.name, each.steps, source.layout, softs[0])
    sample = Pieces.choose(source.layout, softs)
    is_whole = everything or not sample.is_sample
    wanted = {on for each in recipes for on in fitting.needed_probabilities(each.steps)}
    training = _reliability(sample, sorted(wanted | {"max"}), progress, is_whole)
    plans = [_plan(recipe, source, table, softs, training, progress) for recipe in recipes]
    found = _sums(partial(_apply_to_sample, plans, sample), sample.parts, plans, progress)
    counted = found
    if is_whole and sample.is_sample:
        every = list(range(len(softs)))
        counted = _sums(partial(_apply_to_shard, plans, softs), every, plans, progress)
    return [_preview(*each, softs) for each in zip(plans, found, counted, strict=True)]


@dataclass(frozen=True, slots=True)
class _Plan:
    """A recipe with its fit."""

    recipe: Recipe
    inputs: Inputs
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class _Sums:
    counts: Counts = field(default_factory=Counts)
    before: tuple[float, int] = (0.0, 0)
    """Sum of entropies, and of how many."""
    after: tuple[float, int] = (0.0, 0)
    suspects: tuple[Suspects, ...] = ()
    looked_at: tuple[ImageActions, ...] = ()

    def merge(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.counts.merge(other.counts),
            (self.before[0] + other.before[0], self.before[1] + other.before[1]),
            (self.after[0] + other.after[0], self.after[1] + other.after[1]),
            self.suspects + other.suspects,
            self.looked_at + other.looked_at,
        )


def _reliability(
    sample: Pieces, ons: Sequence[str], progress: Progress, is_whole: bool
) -> dict[str, Reliability]:
    if is_whole and sample.is_sample:
        progress.start("count the crops", len(sample.softs), "shards")
        return whole_store.reliability(sample.layout, sample.softs, ons, progress)
    progress.start("count the crops", len(sample.parts), "shards")
    total = {on: Reliability.empty() for on in ons}
    for found in scan.in_order(lambda part: sample.reliability(part, ons), sample.parts):
        total = {on: total[on].merge(found[on]) for on in ons}
        progress.advance()
    return total


def _plan(
    recipe: Recipe,
    source: Source,
    table: ImageTable,
    softs: list[Entry],
    training: dict[str, Reliability],
    progress: Progress,
) -> _Plan:
    soft = SoftPart(source.layout, softs[0])
    values = whole_store.read_scores(recipe, source.layout, table)
    evidence = Evidence(
        precision=soft.entry.attribute("precision"),
        num_classes=soft.spec.num_classes,
        training=training,
        validation=validation_crops(recipe, source.layout, table, list(training), progress),
        scores=values,
    )
    fitted = fitting.fit(recipe.name, recipe.steps, evidence)
    return _Plan(recipe, Inputs(source.layout, soft.entry, fitted, table, values), evidence)


def _sums(
    work: Callable[[int], list[_Sums]], parts: list[int], plans: list[_Plan], progress: Progress
) -> list[_Sums]:
    progress.start("apply", len(parts), "shards")
    total = [_Sums() for _ in plans]
    for found in scan.in_order(work, parts):
        total = [mine.merge(other) for mine, other in zip(total, found, strict=True)]
        progress.advance()
    return total


def _apply_to_sample(plans: list[_Plan], sample: Pieces, part: int) -> list[_Sums]:
    total = [_Sums() for _ in plans]
    for rows in sample.rows(part):
        before = rows.entropy()
        served = ServedLabels.from_rows(rows)
        found = [_apply(plan, rows, served, before) for plan in plans]
        total = [mine.merge(other) for mine, other in zip(total, found, strict=True)]
    return total


def _apply(
    plan: _Plan, rows: LabelRows, served: ServedLabels, before: NDArray[np.float64]
) -> _Sums:
    crops = _crops_of(rows, plan.inputs, served)
    verdict = core.apply(plan.recipe.steps, plan.inputs.fit, crops)
    return _Sums(
        verdict.counts,
        _finite_sum(before),
        _finite_sum(label_entropy(rows, verdict.overlay, before)),
        () if verdict.suspects is None else (verdict.suspects,),
        (_image_actions(crops, verdict.overlay),),
    )


def _apply_to_shard(plans: list[_Plan], softs: list[Entry], shard: int) -> list[_Sums]:
    """Count a whole shard, as the stage does."""
    part, found = SoftPart(plans[0].inputs.layout, softs[shard]), []
    for plan in plans:
        crops = read_crops(part, plan.recipe.steps, plan.inputs)
        verdict = core.apply(plan.recipe.steps, plan.inputs.fit, crops)
        suspects = () if verdict.suspects is None else (verdict.suspects,)
        found.append(_Sums(verdict.counts, suspects=suspects))
    return found


def _preview(plan: _Plan, sampled: _Sums, counted: _Sums, softs: list[Entry]) -> Preview:
    return Preview(
        recipe=plan.recipe,
        fit=plan.inputs.fit,
        counts=counted.counts,
        entropy_before=sampled.before[0] / max(sampled.before[1], 1),
        entropy_after=sampled.after[0] / max(sampled.after[1], 1),
        num_entropies=sampled.before[1],
        training=plan.evidence.training,
        validation=plan.evidence.validation or {},
        suspects=Suspects.join(counted.suspects) if counted.suspects else None,
        num_crops=sum(counted.counts.actions.values()),
        num_all_crops=sum(entry.rows for entry in softs),
        looked_at=_join(sampled.looked_at),
        softs=tuple(softs),
        inputs=plan.inputs,
    )


def _finite_sum(values: NDArray[np.float64]) -> tuple[float, int]:
    return float(np.nansum(values)), int((~np.isnan(values)).sum())


def _image_actions(crops: Crops, overlay: Overlay) -> ImageActions:
    numbers = np.zeros(256, np.int64)
    numbers[list(Action)] = np.arange(len(Action))
    first = crops.first
    place = np.repeat(np.arange(len(first)) * len(Action), crops.per_image)
    counts = np.bincount(place + numbers[overlay.action], minlength=len(first) * len(Action))
    by_action = counts.reshape(len(first), len(Action)).astype(np.int32)
    return ImageActions(crops.image_ids[first].astype(np.int32), by_action)


def _join(parts: Sequence[ImageActions]) -> ImageActions:
    ids = [np.empty(0, np.int32), *(part.image_ids for part in parts)]
    crops = [np.empty((0, len(Action)), np.int32), *(part.crops for part in parts)]
    return ImageActions(np.concatenate(ids), np.concatenate(crops))


def close_up(seen: Preview, image_id: int) -> tuple[LabelRows, Overlay]:
    """Return the labels of all crops of one image, and what the recipe does to them.

    Args:
        seen: of the recipe.
        image_id: of any image of the store.

    Raises:
        DataError: the labels are damaged.
    """
    softs = seen.softs
    bounds = [
        images.shard_bounds(len(seen.inputs.images), len(softs), n) for n in range(len(softs))
    ]
    shard = next(n for n, (start, stop) in enumerate(bounds) if start <= image_id < stop)
    rows = rows_of_image(seen.inputs.layout, softs[shard], image_id - bounds[shard][0])
    crops = crops_of(rows, seen.inputs)
    return rows, core.apply(seen.recipe.steps, seen.fit, crops).overlay


def crops_of(rows: LabelRows, made_of: Inputs) -> Crops:
    """Return a block of labels as calibration sees it, with all that any step looks at."""
    return _crops_of(rows, made_of, ServedLabels.from_rows(rows))


def _crops_of(rows: LabelRows, made_of: Inputs, served: ServedLabels) -> Crops:
    return Crops(
        rows.image_ids,
        rows.targets,
        rows.max_prob,
        rows.spec.num_classes,
        made_of.fit.precision,
        target_prob=rows.target_prob,
        top_class=rows.first_class(),
        labels=served,
        is_taught=is_taught(made_of, rows.image_ids),
        is_mixed=mixed.is_mixed(made_of.layout, made_of.soft),
    )

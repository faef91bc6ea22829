"""What calibrate reads: labels and scores, checked, and the fit of a recipe.

Shapes: N crops of a shard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.calibrate import core
from stages.calibrate import fit as fitting
from stages.calibrate.crops import Crops
from stages.calibrate.fit import Evidence, Fit
from stages.calibrate.reliability import Reliability
from stages.calibrate.served import served_labels
from stages.calibrate.steps import Step
from stages.shared.contract import Json, Progress, Source
from store import entries, fit_file, images, scan, scores, upstream
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout, calibrated
from store.soft_part import SoftPart

REVISION = 1
"""Raised when the same parameters would give other rows."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One named calibration of params.yaml."""

    name: str
    steps: tuple[Step, ...]

    @property
    def artifact(self) -> str:
        """Folder of its overlays in the store."""
        return calibrated(self.name)

    def params(self) -> dict[str, Json]:
        """Its parameters, all of which change its rows."""
        return {"steps": [step.model_dump(mode="json") for step in self.steps]}


@dataclass(frozen=True, slots=True)
class Inputs:
    """Labels of one shard, and what was found over all of them."""

    layout: Layout
    soft: Entry
    fit: Fit
    images: ImageTable
    """Of the whole store."""
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """(number of images,) of each name that a step selects by."""

    def lineage(self) -> dict[str, Json]:
        """Digest of the labels and scores, their kind and grid, what the fit found for each step.

        How reliable the teacher is stands in the fit for people only: it changes no row.
        """
        found: dict[str, Json] = {
            "soft": self.soft.rows_digest,
            "label": label_of(self.soft),
            "steps": [step.to_json() for step in self.fit.steps],
        }
        for name in self.scores:
            found["scores"] = {name: scores.find(self.layout, name).rows_digest}
        return found


def label_of(soft: Entry) -> dict[str, Json]:
    """Kind of the labels, and the grid of the probabilities that thresholds are compared with."""
    return {**soft.attribute("label"), "max_prob": soft.attribute("precision")}


def read_crops(part: SoftPart, steps: Sequence[Step], inputs: Inputs) -> Crops:
    """Read of a part what the steps look at.

    Raises:
        DataError: it is damaged, or its kind of label has no probabilities.
    """
    needs, scalars = core.needs(steps), part.scalars()
    return Crops(
        scalars.image_ids,
        scalars.targets,
        scalars.max_prob,
        part.spec.num_classes,
        target_prob=scalars.target_prob,
        top_class=part.top_class() if needs.top_class else None,
        labels=served_labels(part) if needs.labels else None,
        is_taught=is_taught(inputs, scalars.image_ids),
    )


def is_taught(inputs: Inputs, image_ids: NDArray[np.integer]) -> NDArray[np.bool_] | None:
    """Whether crops (N,) are of images selected for the teacher; None without such a step."""
    cutoffs = [step.cutoff for step in inputs.fit.steps if step.cutoff is not None]
    for cutoff, values in zip(cutoffs, inputs.scores.values(), strict=True):
        return cutoff.is_taught(values[image_ids], image_ids)
    return None


def fit(recipes: Sequence[Recipe], source: Source, progress: Progress) -> list[Fit]:
    """Fit calibrations over all shards and publish each ``_fit.json``; kept where it still holds.

    Crops are looked at once for all recipes together.

    Raises:
        DataError: labels or scores are missing, or labels differ in kind.
        ParamsError: the thresholds of one drop every crop.
    """
    table = images.load(source.layout)
    softs = all_soft(source, table)
    keys = [_fit_key(recipe, source, table, softs) for recipe in recipes]
    kept = [
        _recorded_fit(recipe, source.layout, key) for recipe, key in zip(recipes, keys, strict=True)
    ]
    ons = {
        on
        for recipe, found in zip(recipes, kept, strict=True)
        if found is None
        for on in fitting.needed_probabilities(recipe.steps)
    }
    seen = {}
    if ons:
        progress.start("look at all crops", len(softs), "shards")
        seen = reliability(source.layout, softs, sorted(ons), progress)
    fits = []
    for recipe, key, found in zip(recipes, keys, kept, strict=True):
        if found is None:
            found = fitting.fit(
                recipe.name,
                recipe.steps,
                _evidence(recipe, source, table, softs[0], seen, progress),
            )
            body = {"made_of": key, "fit": found.to_json()}
            fit_file.write(source.layout, recipe.artifact, body)
        fits.append(found)
    return fits


def _recorded_fit(recipe: Recipe, layout: Layout, key: dict[str, Json]) -> Fit | None:
    recorded = fit_file.read(layout, recipe.artifact)
    is_same = recorded is not None and recorded["made_of"] == key
    return Fit.from_json(recorded["fit"]) if recorded is not None and is_same else None


def _evidence(
    recipe: Recipe,
    source: Source,
    table: ImageTable,
    soft: Entry,
    seen: Mapping[str, Reliability],
    progress: Progress,
) -> Evidence:
    """What a recipe's fit is made from: no more of what was seen than it asks for."""
    ons = fitting.needed_probabilities(recipe.steps)
    return Evidence(
        precision=soft.attribute("precision"),
        num_classes=SoftPart(source.layout, soft).spec.num_classes,
        training={on: seen[on] for on in ons},
        validation=validation_crops(recipe, table, ons, progress),
        scores=read_scores(recipe, source.layout, table),
    )


def validation_crops(
    recipe: Recipe, table: ImageTable, ons: Sequence[str], progress: Progress
) -> dict[str, Reliability] | None:
    """The crops of the validation store that a step names; None without one.

    Raises:
        DataError: it is no store of the same classes, or has no labels.
    """
    root = fitting.validation_root(recipe.steps)
    if root is None:
        return None
    layout, softs = _validation(root, table)
    progress.start(f"validation crops of {recipe.name}", len(softs), "shards")
    return reliability(layout, softs, ons, progress)


def reliability(
    layout: Layout, softs: Sequence[Entry], ons: Sequence[str], progress: Progress
) -> dict[str, Reliability]:
    """How often the teacher is right on all crops of these parts, by each of the probabilities."""
    total = {on: Reliability.empty() for on in ons}
    for found in scan.in_order(partial(_count, layout, tuple(ons)), softs):
        total = {on: total[on].merge(found[on]) for on in ons}
        progress.advance()
    return total


def _count(layout: Layout, ons: tuple[str, ...], entry: Entry) -> dict[str, Reliability]:
    part = SoftPart(layout, entry)
    scalars = part.scalars()
    right = part.top_class() == scalars.targets
    values = {"max": scalars.max_prob, "target": scalars.target_prob}
    return {on: Reliability.of(values[on], right, scalars.target_prob) for on in ons}


def read_scores(
    recipe: Recipe, layout: Layout, table: ImageTable
) -> dict[str, NDArray[np.float32]]:
    """Read the scores that a recipe selects by.

    Raises:
        DataError: they are missing, damaged, or of other images.
    """
    names = fitting.score_names(recipe.steps)
    return {name: scores.read(layout, table, name)[1] for name in names}


def _validation(root: str, table: ImageTable) -> tuple[Layout, list[Entry]]:
    """The labels of a store of images that the teacher never saw."""
    layout = Layout.beside(Path(root))
    others = images.load(layout)
    if others.class_names != table.class_names:
        raise DataError(
            f"{layout.table('images', 'classes')} names other classes than this store; make the "
            "validation store from a folder with the same class folders"
        )
    listed = entries.list_entries(layout, "soft")
    if not listed:
        raise DataError(
            f"{layout.folder('soft')} holds no labels; run the stages index to compress for the "
            "validation images first"
        )
    return layout, listed


def all_soft(source: Source, table: ImageTable) -> list[Entry]:
    """The labels of every shard, checked against what stands beside them and each other.

    Raises:
        DataError: some are missing, do not fit, are of another kind, or hold no probabilities.
    """
    softs = [_soft(source, table, shard) for shard in range(source.num_shards)]
    for entry in softs:
        SoftPart(source.layout, entry).require_probabilities()
        if label_of(entry) != label_of(softs[0]):
            raise DataError(
                f"{source.layout.entry('soft', entry.stem)} holds another kind of label than "
                f"{softs[0].stem}; run `ferkd-pipeline stage compress` again"
            )
    return softs


def _fit_key(
    recipe: Recipe, source: Source, table: ImageTable, softs: list[Entry]
) -> dict[str, Json]:
    """What a fit depends on: the labels of every shard only where a step looks at all of them."""
    root = fitting.validation_root(recipe.steps)
    looks_at_crops = bool(fitting.needed_probabilities(recipe.steps))
    key: dict[str, Json] = {
        "revision": REVISION,
        **recipe.params(),
        "label": label_of(softs[0]),
        "soft": [entry.rows_digest for entry in softs] if looks_at_crops else [],
    }
    for name in fitting.score_names(recipe.steps):
        key["scores"] = {name: scores.find(source.layout, name).rows_digest}
    if root is not None:
        _, others = _validation(root, table)
        key["validation"] = [entry.rows_digest for entry in others]
    return key


def _soft(source: Source, table: ImageTable, shard: int) -> Entry:
    """The labels of a shard, checked against the crops and images that stand beside them."""
    return upstream.require_labels(source.layout, table, source.num_shards, shard)[1]


def open_inputs(recipe: Recipe, source: Source) -> Callable[[int], Inputs]:
    """Read the fit once; the result gives the inputs of a shard.

    Raises:
        DataError: labels are missing, or there is no fit of these labels and parameters.
    """
    table = images.load(source.layout)
    recorded = fit_file.read(source.layout, recipe.artifact)
    looks_at_crops = bool(fitting.needed_probabilities(recipe.steps))
    everywhere = all_soft(source, table) if looks_at_crops else []
    values = read_scores(recipe, source.layout, table)

    def of_shard(shard: int) -> Inputs:
        soft = _soft(source, table, shard)
        key = _fit_key(recipe, source, table, everywhere or [soft])
        if recorded is None or recorded["made_of"] != key:
            missing = "there is no fit" if recorded is None else "the fit is of other labels"
            raise DataError(
                f"{fit_file.path_of(source.layout, recipe.artifact)}: {missing} for calibration "
                f"{recipe.name}; run `ferkd-pipeline stage calibrate` without --shard"
            )
        return Inputs(source.layout, soft, Fit.from_json(recorded["fit"]), table, values)

    return of_shard

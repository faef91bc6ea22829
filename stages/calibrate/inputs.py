"""What calibrate reads: labels and scores, checked, and the fit of a recipe.

Shapes: N crops of a shard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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

REVISION = 2
"""Raised when the same parameters would give other rows, or another fit."""


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
        inputs.fit.precision,
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
    fits = [
        found
        or fitting.fit(
            recipe.name, recipe.steps, _evidence(recipe, source, table, softs[0], seen, progress)
        )
        for recipe, found in zip(recipes, kept, strict=True)
    ]
    for recipe, key, found in zip(recipes, keys, fits, strict=True):  # all are right: now write
        body = {"made_of": key, "fit": found.to_json()}
        fit_file.write(source.layout, recipe.artifact, body)
    return fits


def _recorded_fit(recipe: Recipe, layout: Layout, key: dict[str, Json]) -> Fit | None:
    """The fit that lies there, where it was made from the same."""
    recorded = fit_file.read(layout, recipe.artifact)
    is_same = recorded is not None and _why_other(recorded, key) is None
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
        validation=validation_crops(recipe, source.layout, table, ons, progress),
        scores=read_scores(recipe, source.layout, table),
    )


def validation_crops(
    recipe: Recipe, own: Layout, table: ImageTable, ons: Sequence[str], progress: Progress
) -> dict[str, Reliability] | None:
    """The crops of the validation store that a step names; None without one.

    Raises:
        DataError: it is no store of the same classes, or has no labels.
    """
    root = fitting.validation_root(recipe.steps)
    if root is None:
        return None
    layout, softs = _validation(recipe.name, root, own, table)
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


def _validation(name: str, root: str, own: Layout, table: ImageTable) -> tuple[Layout, list[Entry]]:
    """The labels of a store of images that the teacher never saw, of all of its shards.

    Raises:
        DataError: it is not one: missing, incomplete, of other classes or of another teacher, or of
            images that this store has too.
    """
    layout, key = Layout.beside(Path(root)), f"calibrate.{name}: validation is {root}"
    if not layout.entry("images", images.STEM).exists():
        raise DataError(
            f"{key}, which holds no label store ({layout.entry('images', images.STEM)} is "
            "missing); make one of validation images, see docs/calibration.md"
        )
    others = images.load(layout)
    if others.class_names != table.class_names:
        raise DataError(
            f"{layout.table('images', 'classes')} names other classes than this store; make the "
            "validation store from a folder with the same class folders"
        )
    if shared := len(set(others.content_hashes) & set(table.content_hashes)):
        raise DataError(
            f"{key}, which has {shared:,} of its {len(others):,} images in common with the "
            "training images; set index.images in its parameters to the validation folder"
        )
    listed = entries.list_entries(layout, "soft")
    source = Source(layout, len(listed), Path())
    softs = [_soft(source, others, shard) for shard in range(len(listed))]
    if not softs:
        raise DataError(
            f"{layout.folder('soft')} holds no labels; run the stages index to compress for the "
            "validation images first"
        )
    _check_teachers(own, layout)
    return layout, softs


def _check_teachers(own: Layout, other: Layout) -> None:
    """Labels of two stores must be one teacher's, as far as predictions still say it."""
    said = []
    for layout in (own, other):
        found = entries.list_entries(layout, "predictions")
        said += [(layout, found[0].lineage.get("inputs", {}).get("teacher"))] if found else []
    if len(said) == 2 and said[0][1] != said[1][1]:
        raise DataError(
            f"{other.folder('predictions')} and {own.folder('predictions')} are of different "
            "teachers; label the validation images with the one of this store"
        )


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
        _, others = _validation(recipe.name, root, source.layout, table)
        key["validation"] = [entry.rows_digest for entry in others]
    return key


def _soft(source: Source, table: ImageTable, shard: int) -> Entry:
    """The labels of a shard, checked against the crops and images that stand beside them."""
    return upstream.require_labels(source.layout, table, source.num_shards, shard)[1]


def why_unfitted(recipe: Recipe, source: Source) -> str | None:
    """None where the recorded fit is of these parameters and inputs, else what differs.

    Raises:
        DataError: labels or scores are missing, or do not fit together.
    """
    table = images.load(source.layout)
    key = _fit_key(recipe, source, table, all_soft(source, table))
    return _why_other(fit_file.read(source.layout, recipe.artifact), key)


_CHANGED = {
    "revision": "the fit is of another version",
    "steps": "its steps changed",
    "label": "the kind of labels changed",
    "soft": "labels changed",
    "scores": "scores changed",
    "validation": "labels of the validation store changed",
}


def _why_other(recorded: dict[str, Any] | None, key: dict[str, Json]) -> str | None:
    if recorded is None:
        return "it was not fitted yet"
    made_of = recorded["made_of"]
    for name, said in _CHANGED.items():
        if made_of.get(name) != key.get(name):
            return said
    return None


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
        why = _why_other(recorded, _fit_key(recipe, source, table, everywhere or [soft]))
        if recorded is None or why is not None:
            raise DataError(
                f"{fit_file.path_of(source.layout, recipe.artifact)}: no fit that holds for "
                f"calibration {recipe.name}, since {why}; run `ferkd-pipeline stage calibrate` "
                "without --shard"
            )
        return Inputs(source.layout, soft, Fit.from_json(recorded["fit"]), table, values)

    return of_shard

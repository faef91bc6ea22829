"""The first phase of calibrate over a store, and what the second one reads of a shard."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.calibrate import fit as fitting
from stages.calibrate import mixed
from stages.calibrate.fit import Evidence, Fit
from stages.calibrate.recipe import Inputs, Recipe, label_of
from stages.calibrate.reliability import Reliability
from stages.calibrate.validation import open_validation, validation_crops
from stages.calibrate.whole_store import all_soft, read_scores, reliability, soft_of
from stages.shared.contract import Json, Progress, Source
from store import fit_file, images, scores
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout
from store.soft_part import SoftPart

REVISION = 2
"""Raised when the same parameters would give other rows, or another fit."""


def fit(recipes: Sequence[Recipe], source: Source, progress: Progress) -> list[Fit]:
    """Fit calibrations over all shards and publish each ``_fit.json``; kept where it still holds.

    Crops are looked at once for all recipes together.

    Raises:
        DataError: labels or scores are missing, or labels differ in kind.
        ParamsError: the thresholds of one drop every crop, or crops are mixed and a step of one
            needs their ground truth.
    """
    table = images.load(source.layout)
    softs = all_soft(source, table)
    for recipe in recipes:
        mixed.check(recipe.name, recipe.steps, source.layout, softs[0])
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
        _, others = open_validation(recipe.name, root, source.layout, table)
        key["validation"] = [entry.rows_digest for entry in others]
    return key


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
        ParamsError: crops are mixed, and a step needs their ground truth.
    """
    table = images.load(source.layout)
    recorded = fit_file.read(source.layout, recipe.artifact)
    looks_at_crops = bool(fitting.needed_probabilities(recipe.steps))
    # Made once: it may name a validation store, whose images are compared with all of this one.
    of_all = _fit_key(recipe, source, table, all_soft(source, table)) if looks_at_crops else None
    values = read_scores(recipe, source.layout, table)

    def of_shard(shard: int) -> Inputs:
        soft = soft_of(source, table, shard)
        mixed.check(recipe.name, recipe.steps, source.layout, soft)
        why = _why_other(recorded, of_all or _fit_key(recipe, source, table, [soft]))
        if recorded is None or why is not None:
            raise DataError(
                f"{fit_file.path_of(source.layout, recipe.artifact)}: no fit that holds for "
                f"calibration {recipe.name}, since {why}; run `ferkd-pipeline stage calibrate` "
                "without --shard"
            )
        return Inputs(source.layout, soft, Fit.from_json(recorded["fit"]), table, values)

    return of_shard

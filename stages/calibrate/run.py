"""The stage calibrate: soft labels -> a verdict on every crop, as an overlay.

Two phases: ``fit`` looks at all shards at once (shares become thresholds), ``run`` applies it to
one shard. Neither touches predictions or a GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.calibrate import core
from stages.calibrate.config import Step
from stages.calibrate.core import Crops, ServedLabels
from stages.calibrate.counts import Counts
from stages.calibrate.fit import Fit, MaxProbCounts, needs_counts
from stages.calibrate.fit import fit as fit_steps
from stages.shared.contract import Json, Progress, Report, Source
from store import fit_file, images, tables, upstream
from store.codecs import to_entries
from store.dense_codecs import decode_full
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout, calibrated
from store.parts import PartWriter
from store.schema import CALIBRATED
from store.soft_part import SoftPart

REVISION = 1
"""Raised when the same parameters would give other rows."""

_MANY_DROPPED = 0.1
"""Share of crops above which FerKD's thresholds do not fit the teacher; FerKD drops under 0.8 %."""


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
    """Labels of one shard, and the fit over all shards."""

    layout: Layout
    soft: Entry
    fit: Fit

    def lineage(self) -> dict[str, Json]:
        """Digest of the labels, their kind and grid, and the thresholds."""
        fitted = self.fit.to_json()
        return {
            "soft": self.soft.rows_digest,
            "label": _label(self.soft),
            "thresholds": fitted["thresholds"],
        }


def fit(recipe: Recipe, source: Source, progress: Progress) -> None:
    """Fit a calibration over all shards and publish ``_fit.json``; skipped where it still holds.

    Raises:
        DataError: labels are missing or differ in kind.
    """
    softs = _all_soft(source)
    key = _fit_key(recipe, softs)
    recorded = fit_file.read(source.layout, recipe.artifact)
    if recorded is not None and recorded["made_of"] == key:
        return
    counts = MaxProbCounts.empty()
    if needs_counts(recipe.steps):
        progress.start(f"fit {recipe.name}", len(softs), "shards")
        for entry in softs:
            counts = counts.add(SoftPart(source.layout, entry).max_prob())
            progress.advance()
    fitted = fit_steps(recipe.steps, counts, softs[0].attribute("precision"))
    body = {"made_of": key, "fit": fitted.to_json()}
    fit_file.write(source.layout, recipe.artifact, body)


def _label(soft: Entry) -> dict[str, Json]:
    """Kind of the labels, and the grid of the maxima that thresholds are compared with."""
    return {**soft.attribute("label"), "max_prob": soft.attribute("precision")}


def _all_soft(source: Source) -> list[Entry]:
    table = images.load(source.layout)
    softs = [_soft(source, table, shard) for shard in range(source.num_shards)]
    for entry in softs:
        if _label(entry) != _label(softs[0]):
            raise DataError(
                f"{source.layout.entry('soft', entry.stem)} holds another kind of label than "
                f"{softs[0].stem}; run `ferkd-pipeline stage compress` again"
            )
    return softs


def _fit_key(recipe: Recipe, softs: list[Entry]) -> dict[str, Json]:
    """What a fit depends on: the labels of every shard only where a step asks for shares."""
    needed = needs_counts(recipe.steps)
    return {
        "revision": REVISION,
        **recipe.params(),
        "label": _label(softs[0]),
        "soft": [entry.rows_digest for entry in softs] if needed else [],
    }


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
    everywhere = _all_soft(source) if needs_counts(recipe.steps) else []

    def of_shard(shard: int) -> Inputs:
        soft = _soft(source, table, shard)
        softs = everywhere or [soft]
        if recorded is None or recorded["made_of"] != _fit_key(recipe, softs):
            missing = "there is no fit" if recorded is None else "the fit is of other labels"
            raise DataError(
                f"{fit_file.path_of(source.layout, recipe.artifact)}: {missing} for calibration "
                f"{recipe.name}; run `ferkd-pipeline stage calibrate` without --shard"
            )
        return Inputs(source.layout, soft, Fit.from_json(recorded["fit"]))

    return of_shard


def summarise(artifact: str, numbers: Sequence[dict[str, Any]]) -> Report:
    """What share of all shards' crops each action took."""
    total = Counts()
    for each in numbers:
        total = total.merge(Counts(**each))
    name = artifact.split("/", 1)[1]
    dropped = sum(total.groups.get(group, 0) for group in ("extreme_hard", "easy_positive"))
    warnings: tuple[str, ...] = ()
    if dropped > _MANY_DROPPED * total.num_crops:
        warnings = (
            f"{name}: FerKD's thresholds drop {dropped / total.num_crops:.1%} of the crops, which "
            "suits another teacher than this one; choose preset ferkd_share, or thresholds of "
            "your own",
        )
    return Report(lines=tuple(f"{name}: {line}" for line in total.lines()), warnings=warnings)


def run(recipe: Recipe, inputs: Inputs, output: PartWriter, progress: Progress) -> Report:
    """Apply the fit to one shard and publish the overlay."""
    part = SoftPart(inputs.layout, inputs.soft)
    scalars = part.scalars()
    progress.start(f"calibrate {recipe.name} {output.stem}", len(scalars.targets), "crops")
    served = _served(part, scalars.targets) if core.needs_labels(recipe.steps) else None
    crops = Crops(
        scalars.image_ids, scalars.targets, scalars.max_prob, part.spec.num_classes, served
    )
    overlay, counts = core.apply(recipe.steps, inputs.fit, crops)
    num_images = len(scalars.targets) // part.num_crops
    table = tables.make_table(
        CALIBRATED,
        {
            "image_id": scalars.image_ids,
            "crop": np.tile(np.arange(part.num_crops, dtype=np.int16), num_images),
            "action": overlay.action,
            "teacher_weight": overlay.teacher_weight,
            "target_weight": overlay.target_weight,
        },
    )
    numbers = counts.to_json()
    output.publish_table(table, numbers, rows_per_image=part.num_crops)
    progress.advance(len(scalars.targets))
    return Report(numbers)


def _served(part: SoftPart, targets: np.ndarray) -> ServedLabels:
    if part.spec.kind != "full":
        entries = to_entries(part.spec, part.sparse(), targets)
        return ServedLabels.from_entries(*entries, targets, part.spec.num_classes)
    blocks = []
    for start, stop, stored in part.dense_blocks():
        rows = slice(start * part.num_crops, stop * part.num_crops)
        probs = decode_full(stored.reshape(-1, part.spec.num_classes))
        blocks.append(ServedLabels.from_dense(probs, targets[rows]))
    return ServedLabels(
        np.concatenate([block.argmax for block in blocks]),
        np.concatenate([block.at_target for block in blocks]),
        np.concatenate([block.best_other for block in blocks]),
    )

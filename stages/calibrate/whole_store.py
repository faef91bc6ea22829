"""Reading the labels and scores of a whole store, checked against what stands beside them."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stages.calibrate import fit as fitting
from stages.calibrate.recipe import Recipe, label_of
from stages.calibrate.reliability import Reliability
from stages.shared.contract import Progress, Source
from store import scan, scores, upstream
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout
from store.soft_part import SoftPart


def all_soft(source: Source, table: ImageTable) -> list[Entry]:
    """The labels of every shard, checked against what stands beside them and each other.

    Raises:
        DataError: some are missing, do not fit, are of another kind, or hold no probabilities.
    """
    softs = [soft_of(source, table, shard) for shard in range(source.num_shards)]
    for entry in softs:
        SoftPart(source.layout, entry).require_probabilities()
        if label_of(entry) != label_of(softs[0]):
            raise DataError(
                f"{source.layout.entry('soft', entry.stem)} holds another kind of label than "
                f"{softs[0].stem}; run `ferkd-pipeline stage compress` again"
            )
    return softs


def soft_of(source: Source, table: ImageTable, shard: int) -> Entry:
    """The labels of a shard, checked against the crops and images that stand beside them."""
    return upstream.require_labels(source.layout, table, source.num_shards, shard)[1]


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

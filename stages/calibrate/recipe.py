"""A named calibration, and what it needs of one shard. Shapes: N crops of a shard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stages.calibrate import core
from stages.calibrate.crops import Crops
from stages.calibrate.fit import Fit
from stages.calibrate.mixed import is_mixed
from stages.calibrate.served import served_labels
from stages.calibrate.steps import Step
from stages.shared.contract import Json
from store import scores
from store.entries import Entry
from store.images import ImageTable
from store.layout import Layout, calibrated
from store.soft_part import SoftPart


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
        is_mixed=is_mixed(inputs.layout, inputs.soft),
    )


def is_taught(inputs: Inputs, image_ids: NDArray[np.integer]) -> NDArray[np.bool_] | None:
    """Whether crops (N,) are of images selected for the teacher; None without such a step."""
    cutoffs = [step.cutoff for step in inputs.fit.steps if step.cutoff is not None]
    for cutoff, values in zip(cutoffs, inputs.scores.values(), strict=True):
        return cutoff.is_taught(values[image_ids], image_ids)
    return None

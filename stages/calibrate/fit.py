"""The first phase of calibrate: what all shards together say, so that each can be done alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from stages.calibrate import selection, thresholds
from stages.calibrate.reliability import Reliability
from stages.calibrate.selection import Cutoff
from stages.calibrate.steps import FerkdStep, SelectStep, Step
from stages.calibrate.thresholds import Thresholds
from stages.shared.contract import Json
from store.errors import DataError, ParamsError
from store.precision import Precision

On = str
"""`max` or `target`: the probability that crops are counted by."""

_TOLD_BINS = 20


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a fit is made from: all crops of all shards."""

    precision: Precision
    """Grid of the stored probabilities."""
    num_classes: int
    """C."""
    training: Mapping[On, Reliability] = field(default_factory=dict)
    """Of the store's own crops."""
    validation: Mapping[On, Reliability] | None = None
    """Of crops that the teacher never saw, where a step names a store of them."""
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """(N,) of each name, by image_id."""


@dataclass(frozen=True, slots=True)
class StepFit:
    """What was found for one step; a step that looks at nothing has none of it."""

    thresholds: Thresholds | None = None
    eps: float | None = None
    stopped_by: dict[str, float] = field(default_factory=dict)
    """Caps that kept `auto` from acting on more crops, for people."""
    cutoff: Cutoff | None = None

    def to_json(self) -> dict[str, Json]:
        """Return what is there as plain JSON."""
        found: dict[str, Json] = {}
        if self.thresholds is not None:
            found |= {"thresholds": {**self.thresholds.to_json()}, "eps": self.eps}
        if self.stopped_by:
            found["stopped_by"] = {**self.stopped_by}
        if self.cutoff is not None:
            found["cutoff"] = {**self.cutoff.to_json()}
        return found


@dataclass(frozen=True, slots=True)
class Fit:
    """What `apply` needs to know of all shards, and what people want to know of the choice."""

    precision: Precision
    """Grid of the stored probabilities."""
    num_crops: int
    """Crops that the fit saw, without rejected ones; 0 where no step looks at them."""
    steps: tuple[StepFit, ...]
    """One for each step of the recipe."""
    reliability: dict[str, Json] = field(default_factory=dict)
    """How often the teacher is right, in bins of equally many crops: `training`, and `validation`
    where there is one, each by `max` or `target`."""

    def to_json(self) -> dict[str, Json]:
        """Return the fit as plain JSON; `from_json` gives an equal one back."""
        return {
            "precision": self.precision,
            "num_crops": self.num_crops,
            "steps": [step.to_json() for step in self.steps],
            "reliability": self.reliability,
        }

    @classmethod
    def from_json(cls, data: Any) -> "Fit":
        """Return what `to_json` was made from. Raises ValueError when it was no fit."""
        try:
            if data["precision"] not in get_args(Precision):
                raise ValueError(f"precision is {data['precision']!r}")
            steps = tuple(_step_from_json(step) for step in data["steps"])
            reliability = dict(data["reliability"])
            return cls(data["precision"], int(data["num_crops"]), steps, reliability)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not a fit: {error!r}") from None


def _step_from_json(data: Any) -> StepFit:
    limits, cutoff = data.get("thresholds"), data.get("cutoff")
    return StepFit(
        thresholds=None if limits is None else Thresholds(**limits),
        eps=data.get("eps"),
        stopped_by=dict(data.get("stopped_by", {})),
        cutoff=None if cutoff is None else Cutoff(**cutoff),
    )


def needed_probabilities(steps: Sequence[Step]) -> tuple[On, ...]:
    """Return the probabilities that crops must be counted by before `fit`; none for most steps.

    The maximum is among them where any is: eps and reports are made from it.
    """
    ons = {step.on for step in steps if isinstance(step, FerkdStep)}
    return tuple(sorted(ons | {"max"})) if ons else ()


def validation_root(steps: Sequence[Step]) -> str | None:
    """Return the folder of the store that thresholds are chosen on, where a step names one."""
    return next((step.validation for step in steps if isinstance(step, FerkdStep)), None)


def score_names(steps: Sequence[Step]) -> tuple[str, ...]:
    """Return the names of the scores that steps select by."""
    return tuple(step.scores for step in steps if isinstance(step, SelectStep))


def fit(name: str, steps: Sequence[Step], evidence: Evidence) -> Fit:
    """Return what all shards together say of a recipe.

    Raises:
        ParamsError: the thresholds drop every crop.
        DataError: scores are those of other images.
    """
    found = tuple(_fit_step(name, step, evidence) for step in steps)
    counted = evidence.training.get("max")
    sources = {"training": evidence.training, "validation": evidence.validation or {}}
    reliability: dict[str, Json] = {
        source: {
            on: {
                "accuracy": round(crops.accuracy, 6),
                "bins": [each.to_json() for each in crops.bins(_TOLD_BINS)],
            }
            for on, crops in sorted(ons.items())
            if crops.total
        }
        for source, ons in sources.items()
        if ons
    }
    return Fit(evidence.precision, counted.total if counted else 0, found, reliability)


def _fit_step(name: str, step: Step, evidence: Evidence) -> StepFit:
    if isinstance(step, FerkdStep):
        return _fit_ferkd(name, step, evidence)
    if isinstance(step, SelectStep):
        return StepFit(cutoff=selection.choose(step, evidence.scores[step.scores]))
    return StepFit()


def _fit_ferkd(name: str, step: FerkdStep, evidence: Evidence) -> StepFit:
    crops = evidence.training[step.on]
    chosen_on = crops
    if step.validation is not None:
        assert evidence.validation is not None, "a validation store is named"
        chosen_on = evidence.validation[step.on]
        if not chosen_on.total:
            raise DataError(
                f"{step.validation} holds no crop with a prediction, needed by calibrate.{name}"
            )
    limits = thresholds.choose(step, crops, chosen_on, evidence.precision, evidence.num_classes)
    low, _, high = limits.groups(crops.values)
    if crops.total and int(crops.crops[low | high].sum()) == crops.total:
        raise ParamsError(
            f"calibrate.{name}: the step ferkd drops every one of {crops.total:,} crops "
            f"({_told(limits)}; their probabilities lie from {crops.values[0]:g} to "
            f"{crops.values[-1]:g}); choose thresholds that keep some"
        )
    median = _kept_right_median(limits, chosen_on)
    stopped_by = thresholds.stopped_by(step, crops, chosen_on, evidence.num_classes)
    return StepFit(limits, thresholds.choose_eps(step, median), stopped_by)


def _kept_right_median(limits: Thresholds, crops: Reliability) -> float | None:
    """Return the median maximum of kept crops that the teacher has right.

    Where the teacher is right its maximum is what it gives the ground truth, so that both kinds of
    reliability tell it.
    """
    low, soft, high = limits.groups(crops.values)
    return crops.only(~(low | soft | high)).median_right()


def _told(limits: Thresholds) -> str:
    given = [f"{key} {value:g}" for key, value in limits.to_json().items() if value is not None]
    return ", ".join(given)

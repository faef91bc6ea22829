"""The parameters of the calibrate stage: named recipes, each a list of steps.

calibrate:
  ferkd: [{step: ferkd}]
  revision: [{step: revise, eta: 0.8, where: wrong}]
"""

import itertools
import re
from typing import Annotated, ClassVar, Literal, Self

import pydantic
from pydantic import Field

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

_ABSOLUTE = ("drop_below", "soften_from", "soften_to", "drop_from")
_SHARES = ("drop_lowest", "soften_lowest", "drop_highest")


class _Step(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FerkdStep(_Step):
    """FerKD: drop, soften or keep a crop by the teacher's maximum probability.

    Intervals are [0, drop_below) drop, [soften_from, soften_to] soften, [drop_from, 1] drop, and
    keep elsewhere. Of `custom`, what is absent is off.
    """

    step: Literal["ferkd"]

    preset: Literal["ferkd", "ferkd_literal", "ferkd_share", "custom"] = "ferkd"
    """ferkd: .05, .3, .95; ferkd_literal: the same, but [.05, .15) kept, which the paper's ranges
    leave open; ferkd_share: the shares that those took of FerKD's labels; custom: the fields."""

    drop_below: float | None = Field(default=None, ge=0, le=1)
    """Crops with a smaller maximum are dropped."""

    soften_from: float | None = Field(default=None, ge=0, le=1)
    """Smallest maximum that is softened; `drop_below` (or 0) unless given."""

    soften_to: float | None = Field(default=None, ge=0, le=1)
    """Largest maximum that is softened, inclusive."""

    drop_from: float | None = Field(default=None, ge=0, le=1)
    """Crops with this maximum or a larger one are dropped."""

    drop_lowest: float | None = Field(default=None, ge=0, lt=1)
    """Share of all crops, those with the smallest maximum, that is dropped."""

    soften_lowest: float | None = Field(default=None, ge=0, lt=1)
    """Share of all crops up to which the next ones are softened; counts the dropped ones too."""

    drop_highest: float | None = Field(default=None, ge=0, lt=1)
    """Share of all crops, those with the largest maximum, that is dropped. Never more than this
    share: where too many crops have the same maximum, none of them is dropped."""

    eps: float = Field(default=0.1, ge=0, lt=0.5)
    """What a softened label leaves to the other classes. FerKD does not publish it. Below 0.5, so
    that the ground truth stays the most probable class whatever the number of classes."""

    spread: Literal["uniform", "teacher"] = "uniform"
    """How eps is spread: evenly over the other classes, or as the teacher's label says."""

    @pydantic.model_validator(mode="after")
    def _check_together(self) -> Self:
        given = [name for name in (*_ABSOLUTE, *_SHARES) if getattr(self, name) is not None]
        if self.preset != "custom":
            if given:
                raise ValueError(
                    f"{given[0]} is given with preset {self.preset}, allowed: preset: custom"
                )
            return self
        if not given:
            raise ValueError("preset is custom, needed: at least one threshold or share")
        if {*given} & {*_ABSOLUTE} and {*given} & {*_SHARES}:
            raise ValueError(
                f"{given[0]} and {given[-1]} are both given, allowed: thresholds or shares"
            )
        self._check_thresholds()
        self._check_shares()
        return self

    def _check_thresholds(self) -> None:
        if self.soften_from is not None and self.soften_to is None:
            raise ValueError("soften_from is given without soften_to, needed: both")
        values = [(name, getattr(self, name)) for name in _ABSOLUTE]
        present = [(name, value) for name, value in values if value is not None]
        for (low, small), (high, large) in itertools.pairwise(present):
            touching = (low, high) == ("drop_below", "soften_from")
            if small > large or (small == large and not touching):
                raise ValueError(
                    f"{high} is {large}, allowed: above {low} ({small}), else an interval is empty "
                    "or overlaps another"
                )

    def _check_shares(self) -> None:
        lowest = self.drop_lowest or 0.0
        if self.soften_lowest is not None and self.soften_lowest <= lowest:
            raise ValueError(
                f"soften_lowest is {self.soften_lowest}, allowed: above drop_lowest ({lowest})"
            )
        low, high = max(lowest, self.soften_lowest or 0.0), self.drop_highest or 0.0
        if low + high >= 1:
            raise ValueError(
                f"drop_highest is {high}, allowed: less than what the lowest shares leave "
                f"({1 - low:g})"
            )


class ReviseStep(_Step):
    """Label Revision: mix in the ground truth until it leads by 1 - eta."""

    step: Literal["revise"]

    eta: float = Field(default=0.8, gt=0, lt=1)
    """1 - eta is the margin of the ground truth in a revised label."""

    where: Literal["wrong", "all"] = "wrong"
    """wrong: labels whose most probable class is not the ground truth; all: every label."""


class TruthStep(_Step):
    """Ground truth only: the teacher's label is not used."""

    step: Literal["truth"]


Step = Annotated[FerkdStep | ReviseStep | TruthStep, Field(discriminator="step")]


class Config(pydantic.RootModel[dict[str, tuple[Step, ...]]]):
    """The `calibrate` section of params.yaml: NAME -> steps, applied in order.

    Each NAME is a folder below ``labels/calibrated/``.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    NOT_KEYED: ClassVar[frozenset[str]] = frozenset()

    @pydantic.model_validator(mode="after")
    def _check_recipes(self) -> Self:
        if not self.root:
            raise ValueError(
                "names no calibration, needed: at least one; leave the section out if none is "
                "wanted"
            )
        for name, steps in self.root.items():
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no name of a calibration, allowed: up to 64 letters, digits, "
                    "- and _, first a letter or digit"
                )
            if not steps:
                raise ValueError(f"{name} has no steps, needed: at least one")
            if sum(step.step == "ferkd" for step in steps) > 1:
                raise ValueError(f"{name} has the step ferkd twice, allowed: once")
        return self

"""The steps that a calibration is made of, as they stand in params.yaml. Imports pydantic only."""

import itertools
from typing import Annotated, Literal, Self

import pydantic
from pydantic import Discriminator, Field, Tag

from store.layout import is_name_of_scores

_ABSOLUTE = ("drop_below", "soften_from", "soften_to", "drop_from")
_SHARES = ("drop_lowest", "soften_lowest", "drop_highest")

MAX_EPS = 0.5
"""Below it a softened label has the ground truth as its most probable class, whatever C is."""


# Told apart by their type, so that a wrong value is one message and not one for each.
_Eps = Annotated[
    Annotated[float, Field(ge=0, lt=MAX_EPS), Tag("number")]
    | Annotated[Literal["auto"], Tag("text")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "number"),
]


class _Step(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class FerkdStep(_Step):
    """FerKD: drop, soften or keep a crop by how sure the teacher is of it.

    Intervals are [0, drop_below) drop, [soften_from, soften_to] soften, [drop_from, 1] drop, and
    keep elsewhere. Of `custom`, what is absent is off.
    """

    step: Literal["ferkd"]

    preset: Literal["ferkd", "ferkd_literal", "ferkd_share", "auto", "custom"] = "ferkd"
    """ferkd: .05, .3, .95; ferkd_literal: the same, but [.05, .15) kept, which the paper's ranges
    leave open; ferkd_share: the shares that those took of FerKD's labels; auto: from how often the
    teacher is right, see stages/calibrate/thresholds.py; custom: the fields."""

    on: Literal["max", "target"] = "max"
    """What the thresholds are compared with: the teacher's maximum probability, or the probability
    that it gives the ground truth, which is also small where it is confidently wrong."""

    drop_below: float | None = Field(default=None, ge=0, le=1)
    """Crops with a smaller probability are dropped."""

    soften_from: float | None = Field(default=None, ge=0, le=1)
    """Smallest probability that is softened; `drop_below` (or 0) unless given."""

    soften_to: float | None = Field(default=None, ge=0, le=1)
    """Largest probability that is softened, inclusive."""

    drop_from: float | None = Field(default=None, ge=0, le=1)
    """Crops with this probability or a larger one are dropped."""

    drop_lowest: float | None = Field(default=None, ge=0, lt=1)
    """Share of all crops, those with the smallest probability, that is dropped. With auto: the
    most that may be; 0.005 unless given."""

    soften_lowest: float | None = Field(default=None, ge=0, lt=1)
    """Share of all crops up to which the next ones are softened; counts the dropped ones too. With
    auto: the most that may be; 0.03 unless given."""

    drop_highest: float | None = Field(default=None, ge=0, lt=1)
    """Share of all crops, those with the largest probability, that is dropped. Never more than
    this share: where too many crops are alike, none of them is dropped. With auto: 0 unless
    given."""

    eps: _Eps = 0.1
    """What a softened label leaves to the other classes; below 0.5, so that the ground truth stays
    the most probable class. FerKD does not publish it. auto: 1 - the median maximum of kept crops
    that the teacher has right."""

    spread: Literal["uniform", "teacher"] = "uniform"
    """How eps is spread: evenly over the other classes, or as the teacher's label says."""

    validation: str | None = Field(default=None, min_length=1)
    """For auto thresholds or eps: folder of a label store of images that the teacher never saw.
    They are then chosen on its crops; on training crops a teacher is right too often."""

    @property
    def uses_shares(self) -> bool:
        """Whether a share of the crops is given, and not a probability."""
        return any(getattr(self, name) is not None for name in _SHARES)

    @pydantic.model_validator(mode="after")
    def _check_together(self) -> Self:
        self._check_given()
        if self.validation is not None and "auto" not in (self.preset, self.eps):
            raise ValueError(
                f"validation is {self.validation!r}, allowed: only with preset: auto or eps: auto"
            )
        self._check_thresholds()
        self._check_shares()
        return self

    def _check_given(self) -> None:
        """Refuse fields that the preset does not read."""
        absolute = [name for name in _ABSOLUTE if getattr(self, name) is not None]
        shares = [name for name in _SHARES if getattr(self, name) is not None]
        if self.preset == "custom":
            if not absolute and not shares:
                raise ValueError("preset is custom, needed: at least one threshold or share")
            if absolute and shares:
                raise ValueError(
                    f"{absolute[0]} and {shares[-1]} are both given, allowed: thresholds or shares"
                )
        elif absolute or (shares and self.preset != "auto"):
            raise ValueError(
                f"{[*absolute, *shares][0]} is given with preset {self.preset}, "
                "allowed: preset: custom"
            )

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


class SelectStep(_Step):
    """Data Selection: the images of the highest scores are taught by the teacher, others not."""

    step: Literal["select"]

    scores: str
    """Name of the scores, ``labels/scores/NAME.parquet``: a key of the section `score`."""

    share: float = Field(default=0.8, ge=0, le=1)
    """Share of the scored images that the teacher teaches, exact to one image. The rest, and images
    without a score, learn the ground truth alone."""

    teacher_weight: float = Field(default=1.0, gt=0, le=1)
    """lambda: weight of the teacher's label for selected images; the ground truth has the rest."""

    @pydantic.field_validator("scores")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not is_name_of_scores(name):
            raise ValueError("is no name of scores, allowed: letters, digits, . _ -")
        return name


class TruthStep(_Step):
    """Ground truth only: the teacher's label is not used."""

    step: Literal["truth"]


class NoiseStep(_Step):
    """Keep images that are probably mislabelled away from every step that writes ground truth.

    An image is suspected when the teacher says one and the same other class, with `confidence`, of
    the share `agreement` of its crops, and gives the ground truth less than `target_below` on
    average. Its crops keep the teacher's label; they may still be dropped. Suspected images are
    listed for review in ``_suspects-00000.parquet`` beside the overlay.
    """

    step: Literal["noise"]

    confidence: float = Field(default=0.5, ge=0, le=1)
    """Smallest maximum probability with which a crop's class counts."""

    agreement: float = Field(default=0.7, gt=0.5, le=1)
    """Smallest share of an image's crops that must name the same wrong class."""

    target_below: float = Field(default=0.2, gt=0, le=1)
    """Mean probability of the ground truth over an image's crops, below which it is suspected."""


Step = Annotated[
    FerkdStep | ReviseStep | SelectStep | TruthStep | NoiseStep, Field(discriminator="step")
]

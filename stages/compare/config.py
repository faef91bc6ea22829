"""Parameters of the stage compare."""

from typing import ClassVar, Self

import pydantic
from pydantic import Field

TRUTH = "truth"
"""The arm that learns from the ground truth alone."""

STORE = "store"
"""The arm that learns from the stored labels as the teacher gave them."""

ONLINE = "online"
"""The arm whose labels train.online_teacher computes in every step, on the very same crops."""


class Config(pydantic.BaseModel):
    """Which students are trained side by side; all else is as in the section train."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    NOT_KEYED: ClassVar[frozenset[str]] = frozenset({"timing_rounds", "timing_steps"})
    """Fields that cannot change a byte of the results; times are not results."""

    arms: tuple[str, ...] = Field(default=(TRUTH, STORE), min_length=1, max_length=100)
    """truth, store, online, or the name of a calibration: what each student learns from."""

    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1, max_length=1000)
    """One student an arm and seed. A seed gives all arms the same first weights, images and
    crops, so differences are taken seed by seed."""

    val: str = Field(min_length=1)
    """Folder of class folders that the curves are measured on."""

    test: str | None = Field(default=None, min_length=1)
    """Folder of class folders that the finished students are measured on, once."""

    timing_rounds: int = Field(default=8, ge=0, le=1000)
    """Rounds in which each kind of step is timed in turn; 0: no timing."""

    timing_steps: int = Field(default=5, ge=1, le=1000)
    """Steps of each kind in a round."""

    @pydantic.model_validator(mode="after")
    def _check_distinct(self) -> Self:
        for name, values in (("arms", self.arms), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} is {list(values)}, allowed: each value once")
        if any(not 0 <= seed < 2**63 for seed in self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}, allowed: 0 to 2**63 - 1")
        return self

"""The parameters of the calibrate stage: named recipes, each a list of steps.

calibrate:
  ferkd: [{step: ferkd}]
  revision: [{step: revise, eta: 0.8, where: wrong}]
  selection: [{step: revise}, {step: select, scores: influence}, {step: ferkd}]
"""

import re
from typing import ClassVar, Self

import pydantic

from stages.calibrate.steps import Step

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ONCE = ("ferkd", "select", "noise")


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
            _check_steps(name, [step.step for step in steps])
        return self


def _check_steps(name: str, kinds: list[str]) -> None:
    if not kinds:
        raise ValueError(f"{name} has no steps, needed: at least one")
    for kind in _ONCE:
        if kinds.count(kind) > 1:
            raise ValueError(f"{name} has the step {kind} twice, allowed: once")
    if "noise" in kinds[1:]:
        raise ValueError(
            f"{name} has the step noise after {kinds[0]}, allowed: first, since it protects images "
            "from the steps that follow"
        )

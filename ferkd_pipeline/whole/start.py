"""What a stage that runs as a whole is described by, and what it is run with."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.shared.contract import Json, Progress, Report

METRICS = Path("metrics")
MODELS = Path("models")


@dataclass(frozen=True, slots=True)
class Start:
    """What a stage is run with."""

    progress: Progress
    force: bool
    """Whether what is complete is wanted anew: of a stage that makes several things."""
    work: Path
    """Folder for what only this run needs, should it be killed."""
    key: str
    """Of parameters and inputs; what lies in ``work`` bears it."""
    ranks: Any = None
    """`Ranks` of the processes that run it together; None: it is alone."""

    def in_turn(self) -> contextlib.AbstractContextManager[None]:
        """On one process of a host first: what it makes there, the others find."""
        turn: contextlib.AbstractContextManager[None]
        turn = contextlib.nullcontext() if self.ranks is None else self.ranks.in_turn()
        return turn

    def places(self, name: str, part: str = "") -> Any:
        """`Places` of a training of stage ``name``; ``part`` tells several of one run apart."""
        from stages.shared.training.checkpoint import Checkpoints
        from stages.shared.training.fit import Places

        key = f"{self.key}-{part}" if part else self.key
        return Places(Checkpoints(self.work / part, key), METRICS / "live" / name / part)


@dataclass(frozen=True, slots=True)
class Whole:
    """One run of a whole stage, ready to be looked at or started."""

    fingerprint: Json
    """Digests of everything it reads; None where only running tells (index)."""
    writes: tuple[Path, ...]
    run: Callable[[Start], Report]

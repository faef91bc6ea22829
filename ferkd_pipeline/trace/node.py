"""One thing in the chain that made an artifact, and whether it is still what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["unchanged", "changed", "missing", "elsewhere", "not recorded"]
"""elsewhere: of weights that were brought from outside, and are not compared."""


@dataclass(frozen=True, slots=True)
class Node:
    """What was made, from what, and what lies in its place now."""

    what: str
    """In words: ``calibration ferkd``, ``teacher resnet50``."""
    state: State
    digest: str | None = None
    """Of what was used; None where nobody wrote it down."""
    now: str | None = None
    """Digest of what lies there now, where that is something else."""
    why: str = ""
    """What differs, where digests do not say it."""
    facts: tuple[str, ...] = ()
    """Sentences: parameters, counts."""
    recorded: Any = None
    """JSON of all that was recorded, for scripts."""
    made_from: tuple[Node, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "what": self.what,
            "state": self.state,
            "digest": self.digest,
            "digest_now": self.digest if self.state == "unchanged" else self.now,
            "why": self.why or None,
            "recorded": self.recorded,
            "made_from": [node.to_json() for node in self.made_from],
        }

    def walk(self) -> Iterator[Node]:
        """Itself and everything above it."""
        yield self
        for node in self.made_from:
            yield from node.walk()


def compared(recorded: str | None, now: str | None) -> tuple[State, str | None]:
    """The state of what had the digest ``recorded``, and the digest of what lies there instead."""
    if recorded is None:
        return "not recorded", now
    if now is None:
        return "missing", None
    return ("unchanged", None) if recorded == now else ("changed", now)

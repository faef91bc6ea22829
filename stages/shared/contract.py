"""What every stage agrees on: the report that it returns and the progress that it tells.

A stage is a function ``run(config, inputs, outputs, progress) -> Report``. It knows nothing of the
command line, of DVC or of the stage after it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from store.layout import Layout

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of a stage wants people to know.

    ``numbers`` are recorded beside the data and must be reproducible (counts, shares; no times).
    ``lines`` are sentences for people. ``warnings`` are sentences that deserve attention.
    """

    numbers: dict[str, Json] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Progress(Protocol):
    """Where a stage says how far it is. Implementations must accept calls from any thread."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a task of ``total`` units; ends the one before."""

    def advance(self, amount: int = 1) -> None:
        """``amount`` more units of the current task are done."""

    def note(self, message: str) -> None:
        """Say one line to people (a choice made, something unusual); not for results."""


class NoProgress:
    """Progress that nobody watches."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Ignore."""

    def advance(self, amount: int = 1) -> None:
        """Ignore."""

    def note(self, message: str) -> None:
        """Ignore."""


@dataclass(frozen=True, slots=True)
class Source:
    """The store that a stage over shards works on."""

    layout: Layout
    num_shards: int
    images_folder: Path
    """Folder that the image paths of the store are relative to."""


class ShardInputs(Protocol):
    """Typed inputs of one shard of one stage."""

    def lineage(self) -> dict[str, Json]:
        """Digests of everything that was read; part of the shard's key."""


def keyed_params(config: BaseModel) -> dict[str, Json]:
    """Every parameter that can change a byte: all but the config's ``NOT_KEYED`` ones."""
    excluded: frozenset[str] = getattr(type(config), "NOT_KEYED", frozenset())
    params: dict[str, Json] = config.model_dump(mode="json", exclude=set(excluded))
    return params

"""What verify finds, and the command that mends it."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from store.entry import Entry, stage_command, stage_of
from store.errors import DataError
from store.layout import Layout

UNREADABLE = (
    DataError,
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    StopIteration,
    RuntimeError,
)
"""What reading and comparing rows raises where they are not what they should be: bytes that are as
recorded may still be those of a table that nobody foresaw."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong."""

    file: str
    kind: str
    remedy: str
    part: str = ""
    """Artifact and shard, such as ``soft/part-00003``; empty where it is not one part's."""


def remake_command(artifact: str, stem: str = "") -> str:
    """The command that makes a part again; all parts without ``stem``.

    Told from the artifact: what a damaged entry says of its stage is not to be trusted.
    """
    stage = stage_of(artifact)
    return stage_command(stage, stem) if stage else "the stage that wrote it"


def of_entry(layout: Layout, entry: Entry, kind: str, file: Path | None = None) -> Damage:
    """Something wrong with a ``file`` of a part, or with all of it: then its entry is named.

    A stage skips a part that looks complete: so the file is to be deleted first.
    """
    named = layout.entry(entry.artifact, entry.stem) if file is None else file
    remedy = f"delete it and run `{remake_command(entry.artifact, entry.stem)}`"
    return Damage(str(named), kind, remedy, part_of(entry))


def part_of(entry: Entry) -> str:
    """Artifact and stem of an entry."""
    return f"{entry.artifact}/{entry.stem}"

"""Entries, manifests and fits of a store against each other: nothing but small JSON is read."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from store import entries, fit_file
from store.check import completeness
from store.check.damage import Damage, of_entry, part_of, remake_command
from store.entries import Entry
from store.entry import NewerFormatError, is_spelled, stage_of
from store.errors import DataError
from store.layout import Layout

T = TypeVar("T")


@dataclass(slots=True)
class Found:
    """Entries that could be read, and everything that is wrong."""

    entries: list[Entry] = field(default_factory=list)
    lost: list[Entry] = field(default_factory=list)
    """Entries that only the manifest still has: their own files are damaged or missing."""
    damages: list[Damage] = field(default_factory=list)


def read_artifact(layout: Layout, artifact: str, found: Found) -> None:
    """Entries of an artifact, and what is wrong with them, with its manifest or its fit."""
    own: list[Entry] = []
    for path in entries.entry_paths(layout, artifact):
        read = partial(entries.read_of, artifact, path)
        remedy = f"delete it and run `{remake_command(artifact, path.stem[1:])}`"
        entry, damage = _try(path, "damaged entry", read, remedy, f"{artifact}/{path.stem[1:]}")
        own += [entry] if entry else []
        found.damages += damage
    found.entries += own
    if artifact.startswith("calibrated/"):
        found.damages += _check_fit_file(layout, artifact)
    if not own and not completeness.is_sharded(artifact):
        kind = f"holds nothing complete: stage {stage_of(artifact)} is not finished"
        remedy = f"run `{remake_command(artifact)}`"
        found.damages.append(Damage(str(layout.folder(artifact)), kind, remedy, artifact))
    _check_manifest(layout, artifact, own, found)


def _check_fit_file(layout: Layout, artifact: str) -> list[Damage]:
    path = fit_file.path_of(layout, artifact)
    remedy = f"run `{remake_command(artifact)}`"
    read = partial(fit_file.read, layout, artifact)
    fit, damage = _try(path, "damaged fit", read, f"delete it and {remedy}", artifact)
    if fit is None and not damage:
        return [Damage(str(path), "no fit: stage calibrate is not finished", remedy, artifact)]
    return damage


def _check_manifest(layout: Layout, artifact: str, own: list[Entry], found: Found) -> None:
    path = layout.manifest(artifact)
    remedy = f"run `ferkd-pipeline record {stage_of(artifact)}`"
    if not os.path.lexists(path):
        kind = "no manifest: the stage is not finished, or not recorded"
        found.damages.append(Damage(str(path), kind, remedy, artifact))
        changed = [entry for entry in own if not _is_as_written(layout, entry)]
        found.damages += [of_entry(layout, e, "entry is not as it was written") for e in changed]
        return
    read = partial(entries.read_manifest, path, artifact)
    recorded, damage = _try(path, "damaged manifest", read, f"delete it and {remedy}", artifact)
    found.damages += damage
    if recorded is not None:
        readable = {entry.stem for entry in own}
        found.lost += [entry for entry in recorded if entry.stem not in readable]
        found.damages += _compare(layout, artifact, own, recorded, found.damages)


def _try(
    path: Path, kind: str, read: Callable[[], T], remedy: str, part: str
) -> tuple[T | None, list[Damage]]:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return None, [Damage(str(path), "is not a file", remedy, part)]  # a pipe never ends
        return read(), []
    except NewerFormatError as error:
        kind = f"newer format ({error})"
        return None, [Damage(str(path), kind, "upgrade ferkd-pipeline", part)]
    except DataError as error:
        reason = str(error).removeprefix(f"{path} ").partition(";")[0]
        return None, [Damage(str(path), f"{kind}: {reason}", remedy, part)]
    except OSError as error:
        return None, [unreadable(path, error, part)]


def unreadable(path: Path, error: OSError, part: str) -> Damage:
    """A file that the disk does not give."""
    kind = f"cannot be read ({error.strerror})"
    return Damage(str(path), kind, "check the disk and its rights", part)


def _is_as_written(layout: Layout, entry: Entry) -> bool:
    return is_spelled(entry, layout.entry(entry.artifact, entry.stem).read_bytes())


def _compare(
    layout: Layout,
    artifact: str,
    own: list[Entry],
    recorded: list[Entry],
    told: list[Damage],
) -> list[Damage]:
    """Entries on disk against those of the manifest; the files' bytes too, not only the values."""
    record = f"`ferkd-pipeline record {stage_of(artifact)}`"
    damaged = {damage.part for damage in told}
    found = []
    for entry in recorded:
        path, make = layout.entry(artifact, entry.stem), remake_command(artifact, entry.stem)
        part = f"{artifact}/{entry.stem}"
        if not os.path.lexists(path):
            kind, remedy = "missing, though it was recorded", f"run `{make}`, then {record}"
        elif part in damaged or (entry in own and _is_as_written(layout, entry)):
            continue
        else:
            kind, remedy = (
                "entry is not the recorded one",
                f"delete it, run `{make}`, then {record}",
            )
        found.append(Damage(str(path), kind, remedy, part))
    known = {entry.stem for entry in recorded}
    for entry in own:
        if entry.stem not in known:
            path = layout.entry(artifact, entry.stem)
            found.append(Damage(str(path), "not in the manifest", f"run {record}", part_of(entry)))
    return found

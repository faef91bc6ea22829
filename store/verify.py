"""Checking every byte of a store, and that its parts fit together.

Nothing in the usual stack finds a flipped bit: DVC, pandas and Zarr returned wrong data silently
when tried. Every file is hashed and compared with its entry, the entries with the manifest, and
the recorded lineage of each part with what its inputs are now.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from store import entries, fit_file, tables
from store.arrays import ArrayReader
from store.digest import sha256_file
from store.entries import Entry, FileRecord
from store.errors import DataError
from store.layout import ARTIFACTS, Layout
from store.overlay import Action
from store.soft_part import SoftPart

_THREADS = 4
_OWN_JSON = ("_manifest.json",)


class Progress(Protocol):
    """The two calls that verify makes on a progress."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a task."""

    def advance(self, amount: int = 1) -> None:
        """Go on."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong."""

    file: str
    kind: str
    remedy: str


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was looked at and what was found."""

    num_files: int
    num_bytes: int
    damages: list[Damage]


def verify(root: Path, progress: Progress) -> VerifyResult:
    """Check every file of the store at ``root``.

    Raises:
        DataError: there is no store.
    """
    layout = Layout.beside(root)
    names = list_artifacts(layout)
    if not names:
        raise DataError(f"{root} holds no label store; run `ferkd-pipeline stage index` first")
    damages: list[Damage] = []
    listed: list[Entry] = []
    for name in names:
        found, wrong = _entries_of(layout, name)
        listed += found
        damages += wrong
    records = [
        (entry, file, record) for entry in listed for file, record in sorted(entry.files.items())
    ]
    progress.start("verify", sum(record.num_bytes for _, _, record in records), "bytes")
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify") as pool:
        for (_, _, record), damage in zip(
            records, pool.map(lambda item: _check_file(layout, *item), records), strict=True
        ):
            damages += [damage] if damage else []
            progress.advance(record.num_bytes)
    damages += _check_strays(layout, names, listed)
    if not damages:
        damages += [*_check_lineage(layout, listed), *_check_rejects(layout, listed)]
    return VerifyResult(len(records), sum(r.num_bytes for _, _, r in records), damages)


def list_artifacts(layout: Layout) -> list[str]:
    """Artifacts that exist in a store, the named calibrations among them."""
    plain = [name for name in ARTIFACTS if layout.folder(name).is_dir()]
    folder = layout.folder("calibrated")
    named = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [*plain, *[f"calibrated/{name}" for name in named if (folder / name).is_dir()]]


def remake(entry: Entry) -> str:
    """The command that makes a part again."""
    shard = f" --shard {int(entry.stem[5:])}" if entry.stem.startswith("part-") else ""
    return f"ferkd-pipeline stage {entry.stage}{shard}"


def _entries_of(layout: Layout, artifact: str) -> tuple[list[Entry], list[Damage]]:
    """Entries of an artifact, and what is wrong with them or with its manifest."""
    found: list[Entry] = []
    damages: list[Damage] = []
    for path in entries.entry_paths(layout, artifact):
        try:
            found.append(entries.read_entry(path))
        except DataError as error:
            damages.append(Damage(str(path), "damaged entry", str(error)))
    try:
        fit_file.read(layout, artifact)
    except DataError as error:
        damages.append(Damage(str(fit_file.path_of(layout, artifact)), "damaged fit", str(error)))
    manifest = layout.manifest(artifact)
    try:
        recorded = entries.read_manifest(manifest)
    except DataError as error:
        kind = "damaged manifest" if manifest.exists() else "no manifest"
        return found, [*damages, Damage(str(manifest), kind, str(error))]
    for entry in recorded:
        if entry not in found:
            path = layout.entry(artifact, entry.stem)
            remedy = f"run `{remake(entry)}`, then `ferkd-pipeline record {entry.stage}`"
            damages.append(Damage(str(path), "entry is not the recorded one", remedy))
    for entry in found:
        if entry.stem not in {known.stem for known in recorded}:
            path = layout.entry(artifact, entry.stem)
            remedy = f"run `ferkd-pipeline record {entry.stage}`"
            damages.append(Damage(str(path), "not in the manifest", remedy))
    return found, damages


def _check_file(layout: Layout, entry: Entry, name: str, record: FileRecord) -> Damage | None:
    path = layout.folder(entry.artifact) / name
    remedy = f"delete it and run `{remake(entry)}`"
    try:
        size = path.stat().st_size
        if size != record.num_bytes:
            return Damage(str(path), f"{size} bytes instead of {record.num_bytes}", remedy)
        if sha256_file(path) != record.sha256:
            return Damage(str(path), "its SHA-256 is not the recorded one", remedy)
    except FileNotFoundError:
        return Damage(str(path), "missing", f"run `{remake(entry)}`")
    except OSError as error:
        return Damage(str(path), f"cannot be read ({error.strerror})", "check the disk")
    return None


def _check_strays(layout: Layout, names: list[str], listed: list[Entry]) -> Iterator[Damage]:
    """Files that no entry covers: remnants of a killed run, or somebody else's."""
    for name in names:
        folder = layout.folder(name)
        known = {file for entry in listed if entry.artifact == name for file in entry.files}
        known |= {path.name for path in entries.entry_paths(layout, name)}
        known |= {fit_file.path_of(layout, name).name} if name.startswith("calibrated/") else set()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = path.relative_to(folder).as_posix()
            if relative not in known and relative not in _OWN_JSON and path.name != ".gitignore":
                yield Damage(str(path), "belongs to no entry", "delete it, or run its stage again")


_FITS = {
    "predictions": ("crops", "crops"),
    "soft": ("crops", "crops"),
    "calibrated": ("soft", "soft"),
}


def _check_lineage(layout: Layout, listed: list[Entry]) -> Iterator[Damage]:
    """Parts that were made from other inputs than those that stand beside them."""
    digests = {(entry.artifact, entry.stem): entry.rows_digest for entry in listed}
    for entry in listed:
        family = entry.artifact.split("/")[0]
        name, source = _FITS.get(family, ("", ""))
        now = digests.get((source, entry.stem))
        recorded = entry.lineage.get("inputs", {}).get(name)
        if source and now is not None and now != recorded:
            path = layout.entry(entry.artifact, entry.stem)
            yield Damage(str(path), f"made from other {name}", f"run `{remake(entry)}`")


def _check_rejects(layout: Layout, listed: list[Entry]) -> Iterator[Damage]:
    """Rows of unusable images must agree in predictions, labels and calibrations."""
    for entry in listed:
        if entry.artifact != "predictions":
            continue
        expected = _rejected_predictions(layout, entry)
        for other in listed:
            if other.stem != entry.stem or other.artifact.split("/")[0] not in _FITS:
                continue
            found = _rejected_rows(layout, other)
            if found is not None and not np.array_equal(found, expected):
                kind = "its rejected rows are not those of the predictions"
                path = layout.entry(other.artifact, other.stem)
                yield Damage(str(path), kind, f"run `{remake(other)}`")


def _rejected_predictions(layout: Layout, entry: Entry) -> NDArray[np.bool_]:
    reader = ArrayReader(layout.arrays(entry.artifact, entry.stem))
    marks = [np.isnan(reader.read("target_logp", start, stop)) for start, stop in reader.blocks()]
    return np.concatenate(marks).ravel()


def _rejected_rows(layout: Layout, entry: Entry) -> NDArray[np.bool_] | None:
    """Rows (images x crops) that a part marks as rejected."""
    path = layout.table(entry.artifact, entry.stem)
    if entry.artifact.startswith("calibrated/"):
        table = tables.read_table(path, ["action"])
        return np.asarray(tables.column(table, "action") == Action.REJECT)
    if entry.artifact == "soft":
        return np.asarray(np.isnan(SoftPart(layout, entry).max_prob()))
    return None

"""Checking every byte of a store, and that its parts fit together.

Nothing in the usual stack finds a flipped bit: DVC, pandas and Zarr returned wrong data silently
when tried. Every file is hashed and compared with its entry, the entries with the manifest, and
the recorded lineage of each part with what its inputs are now.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from store import consistency, entries, fit_file
from store.consistency import Damage
from store.digest import sha256_file
from store.entries import Entry, FileRecord
from store.entry import entry_bytes
from store.errors import DataError
from store.layout import Layout, list_artifacts

__all__ = ["Damage", "Progress", "VerifyResult", "list_artifacts", "verify"]

T = TypeVar("T")

_THREADS = 4
_OWN_JSON = ("_manifest.json",)


class Progress(Protocol):
    """The two calls that verify makes on a progress."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a task."""

    def advance(self, amount: int = 1) -> None:
        """Go on."""


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
        damages += consistency.check(layout, listed)
    return VerifyResult(len(records), sum(r.num_bytes for _, _, r in records), damages)


def _entries_of(layout: Layout, artifact: str) -> tuple[list[Entry], list[Damage]]:
    """Entries of an artifact, and what is wrong with them or with its manifest."""
    found: list[Entry] = []
    damages: list[Damage] = []
    for path in entries.entry_paths(layout, artifact):
        entry, damage = _try(path, "damaged entry", partial(entries.read_entry, path))
        found += [entry] if entry else []
        damages += damage
    fit = fit_file.path_of(layout, artifact)
    damages += _try(fit, "damaged fit", partial(fit_file.read, layout, artifact))[1]
    manifest = layout.manifest(artifact)
    kind = "damaged manifest" if manifest.exists() else "no manifest"
    recorded, damage = _try(manifest, kind, partial(entries.read_manifest, manifest))
    if recorded is None:
        return found, [*damages, *damage]
    return found, [*damages, *_compare(layout, artifact, found, recorded)]


def _try(path: Path, kind: str, read: Callable[[], T]) -> tuple[T | None, list[Damage]]:
    try:
        return read(), []
    except DataError as error:
        return None, [Damage(str(path), kind, str(error))]
    except OSError as error:
        return None, [_unreadable(path, error)]


def _unreadable(path: Path, error: OSError) -> Damage:
    return Damage(str(path), f"cannot be read ({error.strerror})", "check the disk and its rights")


def _compare(
    layout: Layout, artifact: str, found: list[Entry], recorded: list[Entry]
) -> Iterator[Damage]:
    """Entries on disk against those of the manifest; the files' bytes too, not only the values."""
    for entry in recorded:
        path = layout.entry(artifact, entry.stem)
        if entry not in found or path.read_bytes() != entry_bytes(entry):
            remedy = f"run `{entry.remake}`, then `ferkd-pipeline record {entry.stage}`"
            yield Damage(str(path), "entry is not the recorded one", remedy)
    known = {entry.stem for entry in recorded}
    for entry in found:
        if entry.stem not in known:
            path = layout.entry(artifact, entry.stem)
            remedy = f"run `ferkd-pipeline record {entry.stage}`"
            yield Damage(str(path), "not in the manifest", remedy)


def _check_file(layout: Layout, entry: Entry, name: str, record: FileRecord) -> Damage | None:
    path = layout.folder(entry.artifact) / name
    remedy = f"delete it and run `{entry.remake}`"
    try:
        size = path.stat().st_size
        if size != record.num_bytes:
            return Damage(str(path), f"{size} bytes instead of {record.num_bytes}", remedy)
        if sha256_file(path) != record.sha256:
            return Damage(str(path), "its SHA-256 is not the recorded one", remedy)
    except FileNotFoundError:
        return Damage(str(path), "missing", f"run `{entry.remake}`")
    except OSError as error:
        return _unreadable(path, error)
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
                yield _stray(path)
    above = layout.folder("calibrated")
    for path in sorted(above.iterdir()) if above.is_dir() else []:
        if not path.is_dir() and path.name != ".gitignore":
            yield _stray(path)


def _stray(path: Path) -> Damage:
    return Damage(str(path), "belongs to no entry", "delete it, or run its stage again")

"""Entries: what says that a shard is complete, which bytes it has, and where it came from.

A writer publishes ``_part-00003.json`` last. ``_manifest.json`` merges the entries of an artifact,
sorted, and ends with the SHA-256 of what stands before.
"""

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from store.atomic import write_bytes
from store.digest import canonical_json, sha256_file, sha256_json
from store.errors import DataError
from store.layout import FORMAT_VERSION, Layout

_SOFTWARE = ("ferkd-pipeline", "numpy", "pyarrow", "zarr", "torch", "torchvision", "timm")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and SHA-256 of one file."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One complete shard (or one whole artifact) and its lineage."""

    artifact: str
    stem: str
    stage: str
    key: str
    """Shard key: SHA-256 of everything that can change a byte."""
    rows: int
    rows_digest: str
    """xxh3-128 over names, dtypes and values."""
    files: dict[str, FileRecord]
    """By path relative to the artifact's folder, posix."""
    lineage: dict[str, Any]
    """What the key was made of: revision, parameters, digests of inputs."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """What a reader must know to read the rows (crops an image, label kind, classes)."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """Counts and shares that the stage reported; reproducible."""
    software: dict[str, str] = field(default_factory=dict)
    """Versions that made it; recorded, not part of the key."""
    format_version: int = FORMAT_VERSION


def file_records(folder: Path, paths: list[Path]) -> dict[str, FileRecord]:
    """Records of files, and of every file below folders, named relative to ``folder``."""
    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    return {
        file.relative_to(folder).as_posix(): FileRecord(file.stat().st_size, sha256_file(file))
        for file in files
    }


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that make labels, of those that are installed."""
    found = {}
    for name in _SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def publish(layout: Layout, entry: Entry) -> None:
    """Write the entry, atomically: from now on the shard is complete."""
    write_bytes(layout.entry(entry.artifact, entry.stem), _pretty(asdict(entry)))


def withdraw(layout: Layout, artifact: str, stem: str) -> None:
    """Delete the entry before its files change: the shard is incomplete from now on."""
    layout.entry(artifact, stem).unlink(missing_ok=True)
    layout.manifest(artifact).unlink(missing_ok=True)


def read_entry(path: Path) -> Entry:
    """Read one entry file.

    Raises:
        DataError: missing, not an entry, or of a newer format version.
    """
    try:
        return parse_entry(json.loads(path.read_bytes()), path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: that shard is not complete") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); run its stage again") from None


def parse_entry(raw: Any, path: Path) -> Entry:
    """An entry from parsed JSON; ``path`` is named in errors."""
    found = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(found, int) and found > FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {found}, this software reads up to {FORMAT_VERSION}; "
            "upgrade ferkd-pipeline"
        )
    try:
        files = {name: FileRecord(**record) for name, record in raw["files"].items()}
        return Entry(**{**raw, "files": files})
    except (TypeError, KeyError, AttributeError):
        raise DataError(f"{path} is not an entry of a label store; run its stage again") from None


def find_entry(layout: Layout, artifact: str, stem: str) -> Entry | None:
    """The entry of a shard, or None where there is none."""
    path = layout.entry(artifact, stem)
    return read_entry(path) if path.exists() else None


def why_incomplete(layout: Layout, artifact: str, stem: str, key: str) -> str | None:
    """None for a complete shard of this key, else the reason why it must be made. Reads no data."""
    path = layout.entry(artifact, stem)
    if not path.exists():
        return "not made yet"
    try:
        entry = read_entry(path)
    except DataError:
        return "its entry is damaged"
    if entry.key != key:
        return "parameters or inputs changed"
    for name, record in entry.files.items():
        file = layout.folder(artifact) / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != record.num_bytes:
            return f"{name} has {file.stat().st_size} bytes instead of {record.num_bytes}"
    return None


def entry_paths(layout: Layout, artifact: str) -> list[Path]:
    """Files that should be entries of an artifact, sorted."""
    return [
        path
        for path in sorted(layout.folder(artifact).glob("_*.json"))
        if path.name not in ("_manifest.json", "_fit.json")
    ]


def list_entries(layout: Layout, artifact: str) -> list[Entry]:
    """All entries of an artifact, sorted by stem."""
    return [read_entry(path) for path in entry_paths(layout, artifact)]


def write_manifest(layout: Layout, artifact: str) -> str:
    """Merge an artifact's entries into its manifest and return the manifest's SHA-256.

    Left alone where it is already right, so that recording twice changes no file.
    """
    body = {
        "format_version": FORMAT_VERSION,
        "artifact": artifact,
        "entries": [asdict(entry) for entry in list_entries(layout, artifact)],
    }
    digest = sha256_json(body)
    data = _pretty({**body, "sha256": digest}, sort=False)
    path = layout.manifest(artifact)
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)
    return digest


def read_manifest(path: Path) -> list[Entry]:
    """Entries of a manifest, its own digest checked.

    Raises:
        DataError: missing, damaged, or of a newer format version.
    """
    try:
        raw = json.loads(path.read_bytes())
        digest = raw.pop("sha256")
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run `ferkd-pipeline record`") from None
    except (ValueError, KeyError, AttributeError):
        raise DataError(f"{path} is damaged; run `ferkd-pipeline record`") from None
    if sha256_json(raw) != digest:
        raise DataError(f"{path} does not match its own SHA-256; run `ferkd-pipeline record`")
    return [parse_entry(entry, path) for entry in raw["entries"]]


def _pretty(value: dict[str, Any], *, sort: bool = True) -> bytes:
    canonical_json(value)  # NaN would make a file that only Python reads
    return (json.dumps(value, indent=1, sort_keys=sort, ensure_ascii=False) + "\n").encode()

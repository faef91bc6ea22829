"""Entries: what says that a shard is complete, which bytes it has, and where it came from.

A writer publishes ``_part-00003.json`` last. ``_manifest.json`` merges the entries of an artifact,
sorted, and ends with the SHA-256 of what stands before.
"""

import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from store.atomic import write_bytes
from store.digest import sha256_file, sha256_json
from store.entry import (
    Entry,
    FileRecord,
    NewerFormatError,
    check_version,
    entry_bytes,
    entry_json,
    parse_entry,
    pretty_json,
    read_entry,
    stage_command,
    stage_of,
)
from store.errors import DataError
from store.layout import FORMAT_VERSION, Layout, is_of_store

__all__ = [
    "Entry",
    "FileRecord",
    "entry_paths",
    "file_records",
    "find_entry",
    "installed_versions",
    "is_all_ours",
    "list_entries",
    "publish",
    "read_entry",
    "read_manifest",
    "read_of",
    "stage_command",
    "why_incomplete",
    "withdraw",
    "write_manifest",
]

_SOFTWARE = ("ferkd-pipeline", "numpy", "pyarrow", "zarr", "torch", "torchvision", "timm")


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
    write_bytes(layout.entry(entry.artifact, entry.stem), entry_bytes(entry))


def withdraw(layout: Layout, artifact: str, stem: str) -> None:
    """Delete the entry before its files change: the shard is incomplete from now on."""
    layout.entry(artifact, stem).unlink(missing_ok=True)
    layout.manifest(artifact).unlink(missing_ok=True)


def find_entry(layout: Layout, artifact: str, stem: str) -> Entry | None:
    """The entry of a shard, or None where there is none.

    Raises:
        DataError: it is damaged, of another artifact, or of a newer format version.
    """
    path = layout.entry(artifact, stem)
    return read_of(artifact, path) if path.exists() else None


def read_of(artifact: str, path: Path) -> Entry:
    """Read one entry file that stands in the folder of ``artifact``.

    Raises:
        DataError: it is damaged, of another artifact, or of a newer format version.
    """
    entry = read_entry(path)
    if entry.artifact != artifact:
        stage = stage_of(artifact)
        command = f"`{stage_command(stage, entry.stem)}`" if stage else "its stage"
        raise DataError(
            f"{path} is an entry of {entry.artifact}, not of {artifact}; delete it and run "
            f"{command} again"
        )
    return entry


def why_incomplete(layout: Layout, artifact: str, stem: str, key: str) -> str | None:
    """None for a complete shard of this key, else the reason why it must be made. Reads no data.

    Raises:
        NewerFormatError: a newer version of this software made it.
    """
    path = layout.entry(artifact, stem)
    if not path.exists():
        return "not made yet"
    try:
        entry = read_of(artifact, path)
    except NewerFormatError:
        raise
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


def is_all_ours(layout: Layout, artifact: str) -> bool:
    """Whether all that lies in an artifact's folder is the store's own, and was made as that.

    Not so in a copy of another artifact that somebody keeps under a name of his.
    """
    if not all(is_of_store(path.name) for path in layout.folder(artifact).iterdir()):
        return False
    for path in entry_paths(layout, artifact):
        with suppress(DataError):
            if read_entry(path).artifact != artifact:
                return False
    return True


def list_entries(layout: Layout, artifact: str) -> list[Entry]:
    """All entries of an artifact, sorted by stem."""
    return [read_of(artifact, path) for path in entry_paths(layout, artifact)]


def artifact_digest(layout: Layout, artifact: str) -> str:
    """Digest of what all parts of an artifact hold: their names, keys and rows digests."""
    listed = list_entries(layout, artifact)
    return sha256_json([[entry.stem, entry.key, entry.rows_digest] for entry in listed])


def write_manifest(layout: Layout, artifact: str) -> str:
    """Merge an artifact's entries into its manifest and return the manifest's SHA-256.

    Left alone where it is already right, so that recording twice changes no file.
    """
    body = {
        "format_version": FORMAT_VERSION,
        "artifact": artifact,
        "entries": [entry_json(entry) for entry in list_entries(layout, artifact)],
    }
    digest = sha256_json(body)
    data = pretty_json({**body, "sha256": digest}, sort=False)
    path = layout.manifest(artifact)
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)
    return digest


def read_manifest(path: Path, artifact: str | None = None) -> list[Entry]:
    """Entries of a manifest, its own digest checked.

    Raises:
        DataError: missing, damaged, of a newer format version, or not of ``artifact``, if given.
    """
    try:
        data = path.read_bytes()
        raw = dict(json.loads(data))
        body = {name: value for name, value in raw.items() if name != "sha256"}
        is_right = raw["sha256"] == sha256_json(body)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run `ferkd-pipeline record`") from None
    except (IsADirectoryError, NotADirectoryError):
        raise DataError(f"{path} is not a file; delete it, run `ferkd-pipeline record`") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path} is damaged; run `ferkd-pipeline record`") from None
    if is_right:
        check_version(raw.get("format_version"), path)  # before the spelling, which may change
    if not is_right or data != pretty_json(raw, sort=False):
        raise DataError(f"{path} does not match its own SHA-256; run `ferkd-pipeline record`")
    if artifact not in (None, raw.get("artifact")):
        raise DataError(
            f"{path} is the manifest of {raw.get('artifact')}, not of {artifact}; "
            "run `ferkd-pipeline record`"
        )
    if not isinstance(raw.get("entries"), list):
        raise DataError(f"{path} lists no entries; run `ferkd-pipeline record`")
    return [parse_entry(entry, path) for entry in raw["entries"]]

"""One entry: what says that a part is complete, which bytes it has, and where it came from.

An entry carries the SHA-256 of what it says, so that a reader notices damage without a manifest.
Fields that this version does not know are kept and otherwise ignored: a later version may add some.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from store.digest import canonical_json, sha256_json
from store.errors import DataError
from store.layout import FORMAT_VERSION

_STAGES = {
    "images": "index",
    "rejects": "index",
    "crops": "sample",
    "predictions": "infer",
    "soft": "compress",
    "calibrated": "calibrate",
    "scores": "score",
}


class NewerFormatError(DataError):
    """A file of a newer version of this software: upgrade; making it again would lose it."""


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
    unknown: dict[str, Any] = field(default_factory=dict)
    """Fields that a later version of this software added; kept, so that nothing is lost."""

    def attribute(self, name: str) -> Any:
        """One of the attributes.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self.attributes:
            raise DataError(
                f"the entry of {self.artifact}/{self.stem} does not say its {name}; "
                f"run `{self.remake}` again"
            )
        return self.attributes[name]

    @property
    def remake(self) -> str:
        """The command that makes the part again."""
        return stage_command(self.stage, self.stem)


_FIELDS = frozenset(field.name for field in fields(Entry)) - {"unknown"}


def stage_command(stage: str, stem: str) -> str:
    """The command line that makes the part ``stem`` of a stage's artifact.

    Of calibrate it is the whole stage, which makes what is missing alone: a single shard is refused
    where the labels changed since the fit.
    """
    number = stem.removeprefix("part-")
    is_shard = number != stem and number.isdecimal() and stage != "calibrate"
    shard = f" --shard {int(number)}" if is_shard else ""
    return f"ferkd-pipeline stage {stage}{shard}"


def stage_of(artifact: str) -> str | None:
    """The stage that makes an artifact; None for one that this version does not know."""
    return _STAGES.get(artifact.split("/")[0])


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry as JSON, fields of later versions included, without a digest."""
    known = asdict(entry)
    unknown: dict[str, Any] = known.pop("unknown")
    return {**unknown, **known}


def entry_bytes(entry: Entry) -> bytes:
    """What the file of an entry holds, byte by byte."""
    said = entry_json(entry)
    return pretty_json({**said, "sha256": sha256_json(said)})


def is_spelled(entry: Entry, data: bytes) -> bool:
    """Whether ``data`` is what the file of an entry holds; the first stores had no digest in it."""
    return data in (entry_bytes(entry), pretty_json(entry_json(entry)))


def pretty_json(value: dict[str, Any], *, sort: bool = True) -> bytes:
    """JSON as the files of a store hold it: one key a line.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    canonical_json(value)  # NaN would make a file that only Python reads
    return (json.dumps(value, indent=1, sort_keys=sort, ensure_ascii=False) + "\n").encode()


def read_entry(path: Path) -> Entry:
    """Read one entry file.

    Raises:
        DataError: missing, damaged, not an entry, of another part, or of a newer format version.
    """
    try:
        raw = json.loads(path.read_bytes())
        said = {name: value for name, value in raw.items() if name != "sha256"}
        is_right = _is_right(said, raw.get("sha256"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: that shard is not complete") from None
    except (IsADirectoryError, NotADirectoryError):
        raise DataError(f"{path} is not a file; {_remedy(path)}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); {_remedy(path)}") from None
    except AttributeError:
        raise DataError(f"{path} is not an entry of a label store; {_remedy(path)}") from None
    if not is_right:
        raise DataError(f"{path} does not match its own SHA-256; {_remedy(path)}")
    entry = parse_entry(said, path)
    if path.name != f"_{entry.stem}.json":
        raise DataError(f"{path} is the entry of {entry.stem}; {_remedy(path)}")
    return entry


def _is_right(said: dict[str, Any], digest: object) -> bool:
    """Whether an entry matches its digest; the first stores had none, and no unknown fields."""
    own = sha256_json(said)  # refuses what JSON cannot hold
    return set(said) <= _FIELDS if digest is None else digest == own


def parse_entry(raw: Any, path: Path) -> Entry:
    """An entry from parsed JSON; ``path`` is named in errors.

    Raises:
        DataError: it is no entry.
        NewerFormatError: it is of a newer format version.
    """
    check_version(raw.get("format_version") if isinstance(raw, dict) else None, path)
    try:
        files = {name: FileRecord(**record) for name, record in raw["files"].items()}
        known = {name: value for name, value in raw.items() if name in _FIELDS}
        unknown = {name: value for name, value in raw.items() if name not in _FIELDS}
        entry = Entry(**{**known, "files": files}, unknown=unknown)
    except (TypeError, KeyError, AttributeError):
        entry = None
    if entry is None or not _is_well_formed(entry):
        raise DataError(f"{path} is not an entry of a label store; {_remedy(path)}")
    return entry


def _remedy(path: Path) -> str:
    """What makes the entry at ``path`` again: its name says of which part it should be."""
    folder = path.parent
    artifact = "calibrated/" if folder.parent.name == "calibrated" else folder.name
    stage = stage_of(artifact)
    command = f"`{stage_command(stage, path.stem.removeprefix('_'))}`" if stage else "its stage"
    return f"delete it and run {command} again"


def _is_well_formed(entry: Entry) -> bool:
    texts = (entry.artifact, entry.stem, entry.stage, entry.key, entry.rows_digest)
    records = (entry.lineage, entry.attributes, entry.numbers, entry.software)
    return (
        all(isinstance(text, str) for text in texts)
        and _is_count(entry.rows)
        and all(isinstance(record, dict) for record in records)
        and all(_is_file(name, record) for name, record in entry.files.items())
    )


def _is_file(name: str, record: FileRecord) -> bool:
    # Files are read and moved by these names: none may lead out of the artifact's folder.
    is_below = all(part not in ("", ".", "..") for part in name.split("/")) and "\0" not in name
    return is_below and _is_count(record.num_bytes) and isinstance(record.sha256, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_version(found: object, path: Path) -> None:
    """Refuse what a newer version of this software wrote.

    Raises:
        DataError: ``found`` is not a version at all.
        NewerFormatError: it is newer than `FORMAT_VERSION`.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise DataError(f"{path} does not say its format version; run its stage again")
    if found > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} has format version {found}, this software reads up to {FORMAT_VERSION}; "
            "upgrade ferkd-pipeline"
        )

"""One entry: what says that a part is complete, which bytes it has, and where it came from."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from store.digest import canonical_json
from store.errors import DataError
from store.layout import FORMAT_VERSION


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


def stage_command(stage: str, stem: str) -> str:
    """The command line that makes the part ``stem`` of a stage's artifact."""
    number = stem.removeprefix("part-")
    shard = f" --shard {int(number)}" if number != stem and number.isdecimal() else ""
    return f"ferkd-pipeline stage {stage}{shard}"


def entry_bytes(entry: Entry) -> bytes:
    """What the file of an entry holds, byte by byte."""
    return pretty_json(asdict(entry))


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
        DataError: missing, not an entry, of another part, or of a newer format version.
    """
    try:
        entry = parse_entry(json.loads(path.read_bytes()), path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: that shard is not complete") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); run its stage again") from None
    if path.name != f"_{entry.stem}.json":
        raise DataError(f"{path} is the entry of {entry.stem}; delete it and run its stage again")
    return entry


def parse_entry(raw: Any, path: Path) -> Entry:
    """An entry from parsed JSON; ``path`` is named in errors.

    Raises:
        DataError: it is no entry.
        NewerFormatError: it is of a newer format version.
    """
    check_version(raw.get("format_version") if isinstance(raw, dict) else None, path)
    try:
        files = {name: FileRecord(**record) for name, record in raw["files"].items()}
        entry = Entry(**{**raw, "files": files})
    except (TypeError, KeyError, AttributeError):
        entry = None
    if entry is None or not _is_well_formed(entry):
        raise DataError(f"{path} is not an entry of a label store; run its stage again")
    return entry


def _is_well_formed(entry: Entry) -> bool:
    texts = (entry.artifact, entry.stem, entry.stage, entry.key, entry.rows_digest)
    records = (entry.lineage, entry.attributes, entry.numbers, entry.software)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(entry.rows, int)
        and all(isinstance(record, dict) for record in records)
        and all(
            # Files are moved by these names: none may lead out of the artifact's folder.
            not PurePosixPath(name).is_absolute()
            and ".." not in PurePosixPath(name).parts
            and isinstance(record.num_bytes, int)
            and isinstance(record.sha256, str)
            for name, record in entry.files.items()
        )
    )


def check_version(found: object, path: Path) -> None:
    """Refuse what a newer version of this software wrote.

    Raises:
        DataError: ``found`` is not a version at all.
        NewerFormatError: it is newer than `FORMAT_VERSION`.
    """
    if not isinstance(found, int):
        raise DataError(f"{path} does not say its format version; run its stage again")
    if found > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} has format version {found}, this software reads up to {FORMAT_VERSION}; "
            "upgrade ferkd-pipeline"
        )

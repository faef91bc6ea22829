"""Where everything of a label store lies: folders, part files, their entries and the manifest."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from store.atomic import LEFTOVER
from store.errors import ParamsError

FORMAT_VERSION = 1
ARTIFACTS = ("images", "rejects", "crops", "predictions", "soft", "scores")
_NOT_SCORES = ("manifest", "fit")
_MOST_LETTERS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PART_FILE = re.compile(r"_?(?:part|rejects|suspects)-(\d{5,})\.(?:parquet|zarr|json)")
_BESIDE_PARTS = frozenset({"_manifest.json", "_fit.json", ".gitignore", ".DS_Store"})


def is_plain_name(name: str) -> bool:
    """Whether a calibration, or scores, may have this name: it becomes the name of a file."""
    return _NAME.fullmatch(name) is not None


def is_name_of_scores(name: str) -> bool:
    """Whether scores may have this name: not one of a shard's or of other files of a store."""
    is_free = name not in _NOT_SCORES and not name.startswith("part-")
    return is_plain_name(name) and is_free and len(name) <= _MOST_LETTERS


def calibrated(name: str) -> str:
    """The artifact of one named calibration, ``calibrated/NAME``.

    Raises:
        ParamsError: the name is not a plain folder name.
    """
    if not is_plain_name(name):
        raise ParamsError(
            f"calibration name {name!r} is not a plain folder name: use letters, digits, . _ -"
        )
    return f"calibrated/{name}"


def shard_of_file(name: str) -> int | None:
    """The shard whose file, or Zarr store, has this name; None for whatever else lies there."""
    found = _PART_FILE.fullmatch(name)
    return None if found is None else int(found[1])


def is_of_store(name: str) -> bool:
    """Whether a file in an artifact's folder is one of ours, by its name: others stay."""
    is_leftover = name.startswith(".") and LEFTOVER.search(name)
    return bool(is_leftover) or name in _BESIDE_PARTS or shard_of_file(name) is not None


def part_name(shard: int) -> str:
    """Stem of a shard's files, such as ``part-00003``."""
    return f"part-{shard:05d}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one store. ``root`` holds what is published, ``work`` what can be deleted."""

    root: Path
    """The label store, such as ``labels/``."""
    work: Path
    """Resumable work, locks and the training view, such as ``.ferkd/``."""

    @classmethod
    def beside(cls, root: Path) -> "Layout":
        """The default layout: ``.ferkd/`` in the folder that holds the store."""
        return cls(root, root.parent / ".ferkd")

    def folder(self, artifact: str) -> Path:
        """Folder of an artifact (``soft``, ``calibrated/ferkd``)."""
        return self.root / artifact

    def table(self, artifact: str, stem: str) -> Path:
        """A Parquet file of an artifact."""
        return self.folder(artifact) / f"{stem}.parquet"

    def arrays(self, artifact: str, stem: str) -> Path:
        """A Zarr store of an artifact."""
        return self.folder(artifact) / f"{stem}.zarr"

    def entry(self, artifact: str, stem: str) -> Path:
        """The entry that says that ``stem`` is complete; published last."""
        return self.folder(artifact) / f"_{stem}.json"

    def manifest(self, artifact: str) -> Path:
        """All entries of an artifact in one file that carries its own SHA-256."""
        return self.folder(artifact) / "_manifest.json"

    def lock(self, artifact: str, stem: str) -> Path:
        """Lock file of the one writer of ``stem``; never inside the store."""
        return self.work / "locks" / f"{artifact.replace('/', '-')}-{stem}.lock"

    def stage_lock(self, stage: str) -> Path:
        """Lock file of the one process that runs a whole stage."""
        return self.work / "locks" / f"{stage}.lock"

    def resumable(self, stage: str, key: str) -> Path:
        """Folder of unfinished or set-aside work of a stage for one shard key."""
        return self.work / "work" / stage / key

    def view_cache(self) -> Path:
        """Folder of training views: ``$FERKD_CACHE`` where set."""
        cache = os.environ.get("FERKD_CACHE")
        return Path(cache) if cache else self.work / "view"


def list_artifacts(layout: Layout) -> list[str]:
    """Artifacts that exist in a store, the named calibrations among them."""
    plain = [name for name in ARTIFACTS if layout.folder(name).is_dir()]
    folder = layout.folder("calibrated")
    named = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [*plain, *[f"calibrated/{name}" for name in named if (folder / name).is_dir()]]

"""Training views in the cache: which the present labels would open, and which nothing would."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store import entries, json_text
from store.errors import FerkdError
from store.layout import Layout, list_artifacts
from store.view.build import plan_view
from store.view.meta import VIEW_VERSION

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CachedView:
    """One folder of the cache that holds a view."""

    path: Path
    is_wanted: bool
    """Whether it stays: the labels as they are would open it, or it cannot be known."""
    what: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the labels as they are would open."""

    digests: dict[tuple[str, str | None], str]
    """By digests of labels and images, the calibration; ``none`` for the labels as they are."""
    unknown: set[str | None]
    """Calibrations (None for the labels as they are) whose parts do not fit together just now."""


def views(layout: Layout) -> Iterator[CachedView]:
    """Every view in the cache, sorted by folder."""
    cache = layout.view_cache()
    folders = sorted(cache.iterdir()) if cache.is_dir() else []
    found = [
        (folder, meta)
        for folder in folders
        if folder.is_dir() and not folder.is_symlink() and (meta := _meta(folder)) is not None
    ]
    wanted = _wanted(layout) if found else _Wanted({}, set())
    for folder, meta in found:
        calibration = meta.get("calibration")
        named = f"calibration {calibration}" if calibration else "labels as they are"
        if meta.get("version") != VIEW_VERSION:
            yield CachedView(folder, False, f"{named}; laid out as another version does")
        elif (meta["digest"], meta.get("images_digest")) in wanted.digests:
            yield CachedView(folder, True, f"{named}; what training opens now")
        elif calibration in wanted.unknown:
            yield CachedView(folder, True, f"{named}; the store is incomplete, so it may fit again")
        else:
            yield CachedView(folder, False, f"{named}; labels have changed since")


def _meta(folder: Path) -> dict[str, Any] | None:
    """What a view says of itself; None for a folder that is no view, which is left alone."""
    try:
        meta = json_text.parse((folder / "meta.json").read_bytes())
    except (OSError, ValueError):
        return None
    is_view = isinstance(meta, dict) and "calibration" in meta
    return meta if is_view and _DIGEST.fullmatch(str(meta.get("digest"))) else None


def _wanted(layout: Layout) -> _Wanted:
    names = [name for name in list_artifacts(layout) if name.startswith("calibrated/")]
    found = _Wanted({}, set())
    for calibration in [None, *(name.split("/", 1)[1] for name in names)]:
        try:
            num_shards = len(entries.entry_paths(layout, "crops"))
            plan = plan_view(layout, max(1, num_shards), Path(), calibration)
            digests = (plan.meta.digest, plan.meta.images_digest)
            found.digests[digests] = calibration or "none"
        except FerkdError:
            found.unknown.add(calibration)
    return found

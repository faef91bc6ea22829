"""``calibrated/NAME/_fit.json``: what a calibration learned from all shards together."""

import json
from pathlib import Path
from typing import Any

from store.atomic import write_bytes
from store.digest import canonical_json, sha256_json
from store.errors import DataError
from store.layout import FORMAT_VERSION, Layout


def path_of(layout: Layout, artifact: str) -> Path:
    """Where the fit of a calibration lies."""
    return layout.folder(artifact) / "_fit.json"


def write(layout: Layout, artifact: str, body: dict[str, Any]) -> None:
    """Publish a fit, with its own SHA-256; left alone where it is already right."""
    described = {"format_version": FORMAT_VERSION, **body}
    canonical_json(described)
    data = json.dumps({**described, "sha256": sha256_json(described)}, indent=1).encode() + b"\n"
    path = path_of(layout, artifact)
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)


def read(layout: Layout, artifact: str) -> dict[str, Any] | None:
    """The body of a fit, its own digest checked; None where there is none.

    Raises:
        DataError: damaged, or of a newer format version.
    """
    path = path_of(layout, artifact)
    try:
        raw = dict(json.loads(path.read_bytes()))
        digest = raw.pop("sha256")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is damaged; run `ferkd-pipeline stage calibrate`") from None
    if sha256_json(raw) != digest:
        raise DataError(f"{path} does not match its SHA-256; run `ferkd-pipeline stage calibrate`")
    if raw.pop("format_version") > FORMAT_VERSION:
        raise DataError(f"{path} has a newer format version; upgrade ferkd-pipeline")
    return raw

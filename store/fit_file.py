"""``calibrated/NAME/_fit.json``: what a calibration learned from all shards together."""

import json
from pathlib import Path
from typing import Any

from store.atomic import write_bytes
from store.digest import sha256_json
from store.entry import check_version, pretty_json
from store.errors import DataError
from store.layout import FORMAT_VERSION, Layout


def path_of(layout: Layout, artifact: str) -> Path:
    """Where the fit of a calibration lies."""
    return layout.folder(artifact) / "_fit.json"


def write(layout: Layout, artifact: str, body: dict[str, Any]) -> None:
    """Publish a fit, with its own SHA-256; left alone where it is already right."""
    described = {"format_version": FORMAT_VERSION, **body}
    data = _file_bytes(described, sha256_json(described))
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
        data = path.read_bytes()
        raw = dict(json.loads(data))
        digest = raw.pop("sha256")
        is_right = digest == sha256_json(raw)
    except FileNotFoundError:
        return None
    except (IsADirectoryError, NotADirectoryError):
        raise DataError(
            f"{path} is not a file; delete it and run `ferkd-pipeline stage calibrate`"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path} is damaged; run `ferkd-pipeline stage calibrate`") from None
    if is_right:
        check_version(raw.get("format_version"), path)  # before the spelling, which may change
    if not {"made_of", "fit"} <= raw.keys():  # a manifest, say, which is whole and no fit
        raise DataError(f"{path} is not a fit; delete it and run `ferkd-pipeline stage calibrate`")
    if not is_right or data != _file_bytes(raw, digest):
        raise DataError(f"{path} does not match its SHA-256; run `ferkd-pipeline stage calibrate`")
    del raw["format_version"]
    return raw


def _file_bytes(described: dict[str, Any], digest: str) -> bytes:
    return pretty_json({**described, "sha256": digest}, sort=False)

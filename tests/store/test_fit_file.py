"""What a calibration learned: written once, self-checking."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store import fit_file
from store.digest import sha256_json
from store.entry import pretty_json
from store.errors import DataError
from store.layout import Layout

BODY = {"made_of": {"soft": ["0"]}, "fit": {"low": 1e-05, "name": "ß"}}


def test_fit_round_trip(tmp_path: Path) -> None:
    layout = Layout.beside(tmp_path)
    assert fit_file.read(layout, "calibrated/a") is None
    fit_file.write(layout, "calibrated/a", BODY)
    path = fit_file.path_of(layout, "calibrated/a")
    before = path.stat().st_ino
    fit_file.write(layout, "calibrated/a", BODY)
    assert path.stat().st_ino == before
    assert fit_file.read(layout, "calibrated/a") == BODY


def set_version(data: bytes, version: object) -> bytes:
    raw: dict[str, Any] = {**json.loads(data), "format_version": version}
    raw.pop("sha256")
    return pretty_json({**raw, "sha256": sha256_json(raw)}, sort=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.replace(b"low", b"lov"), "does not match its SHA-256"),
        (lambda data: data.replace(b"1e-05", b"1E-05"), "does not match its SHA-256"),
        (lambda data: data[:-5], "is damaged"),
        (lambda data: b"[]", "is damaged"),
        (lambda data: b"{}", "is damaged"),
        (lambda data: b"7", "is damaged"),
        (lambda data: set_version(data, 2), "has format version 2"),
        (lambda data: set_version(data, None), "does not say its format version"),
    ],
)
def test_damaged_fit_is_told(tmp_path: Path, change: Callable[[bytes], bytes], told: str) -> None:
    layout = Layout.beside(tmp_path)
    fit_file.write(layout, "calibrated/a", BODY)
    path = fit_file.path_of(layout, "calibrated/a")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=told):
        fit_file.read(layout, "calibrated/a")

"""`ferkd-pipeline store`: look at a label store and check it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.units import readable_bytes
from store.errors import DataError

EPILOG = """
\b
Examples:
  ferkd-pipeline store info
  ferkd-pipeline store verify --root /data/labels
\b
The tables need none of this to be read:
  python -c 'import pandas; print(pandas.read_parquet("labels/soft/"))'
"""

root_option = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the store; default: store.root of params.yaml.",
)


@click.group(epilog=EPILOG)
def store() -> None:
    """Look at a label store, and check it."""


@store.command()
@root_option
@params_option
@json_option
def info(root: Path | None, params_path: Path, as_json: bool) -> None:
    """Show what a store holds: artifacts, shards, rows, sizes, and where they came from."""
    from store import info as store_info

    found = store_info.info(_root(root, params_path))
    if as_json:
        print_json(found)
    else:
        _show(found)


@store.command()
@root_option
@params_option
@json_option
def verify(root: Path | None, params_path: Path, as_json: bool) -> None:
    """Read every byte and compare with what was recorded; list what is damaged and how to mend it.

    Exit code 3 when anything is.
    """
    from ferkd_pipeline import progress
    from store import verify as store_verify

    folder = _root(root, params_path)
    with progress.watched() as watch:
        result = store_verify.verify(folder, watch)
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        for damage in result.damages:
            click.echo(f"{damage.file}: {damage.kind}; {damage.remedy}")
        if not result.damages:
            size = readable_bytes(result.num_bytes)
            click.echo(f"{folder}: {result.num_files:,} files, {size}, all as recorded")
    if result.damages:
        count = len(result.damages)
        raise DataError(f"{folder}: {count} {'thing' if count == 1 else 'things'} to mend")


def _root(root: Path | None, params_path: Path) -> Path:
    if root is None:
        from ferkd_pipeline import params

        root = params.load(params_path).store.root
    if not root.is_dir():
        raise DataError(f"{root}: there is no label store; `ferkd-pipeline stage index` begins one")
    return root


def _show(found: Mapping[str, Any]) -> None:
    _show_keys({key: item for key, item in found.items() if key != "artifacts"})
    rows = [("artifact", "parts", "rows", "size", "recorded")]
    for name, each in found["artifacts"].items():
        recorded = "yes" if each["is_recorded"] else "no"
        size = readable_bytes(each["num_bytes"])
        rows.append((name, f"{each['num_parts']:,}", f"{each['rows']:,}", size, recorded))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    click.echo()
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        click.echo("  ".join([row[0].ljust(widths[0]), *cells]))


def _show_keys(value: Mapping[str, Any], indent: str = "") -> None:
    for key, item in value.items():
        name = f"{indent}{key.replace('_', ' ').removeprefix('num ')}"
        if isinstance(item, Mapping):
            click.echo(f"{name}:")
            _show_keys(item, indent + "  ")
        else:
            click.echo(f"{name}: {_plain(item)}")


def _plain(item: object) -> str:
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, list):
        return ", ".join(str(part) for part in item) or "none"
    return "none" if item is None else str(item)

"""`ferkd-pipeline store gc`: delete what lies beside a store and is of no use any more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.commands.store.shared import (
    plural,
    root_of,
    root_option,
    show_lines,
    show_table,
)
from store.errors import ParamsError
from store.units import readable_bytes

if TYPE_CHECKING:
    from store.inspection.collect import Found, Item

EPILOG = """
\b
Kinds:
  view        a training view that the present labels would not open
  set-aside   finished shards of other parameters, in case these come back
  results     of trainings, in case they are wanted again
  unfinished  what a shard that was interrupted goes on from
  lease       the mark of a writer that was killed
  remnant     a file that a killed writer never finished
\b
Examples:
  ferkd-pipeline store gc                        list; nothing is deleted
  ferkd-pipeline store gc --kind view --force    delete old training views

The store itself is never touched. While a stage is running nothing is deleted (exit code 75).
"""
_MOST_LETTERS = 30
_KINDS = ("view", "set-aside", "results", "unfinished", "lease", "remnant")


@click.command(epilog=EPILOG, short_help="List or delete old views and set-aside work.")
@root_option
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(_KINDS), help="Only this kind of thing."
)
@click.option("--dry-run", is_flag=True, help="Only list; this is what happens without --force.")
@click.option("--force", is_flag=True, help="Delete what is listed.")
@click.option(
    "--shared-cache",
    is_flag=True,
    help="Also views in $FERKD_CACHE that this store would not open; other stores may.",
)
@params_option
@json_option
def gc(
    root: Path | None,
    kinds: tuple[str, ...],
    dry_run: bool,
    force: bool,
    shared_cache: bool,
    params_path: Path,
    as_json: bool,
) -> None:
    """List what lies in the work folder beside a store (.ferkd/, and $FERKD_CACHE) and can be
    deleted, with its size and what deleting it costs; delete it with --force.
    """
    if force and dry_run:
        raise ParamsError("--force deletes and --dry-run does not: give one of them")
    from store.inspection import collect
    from store.layout import Layout

    layout = Layout.beside(root_of(root, params_path))
    found = collect.find(layout, kinds, shared_cache=shared_cache)
    deleted: list[Item] = []
    if force:
        collect.refuse_while_written(layout)
        collect.delete(layout, found, deleted.append)
    if as_json:
        print_json(_as_json(found, deleted))
    else:
        _show(found, deleted, force)


def _as_json(found: Found, deleted: list[Item]) -> dict[str, Any]:
    def plain(item: Item) -> dict[str, Any]:
        return {
            "kind": item.kind,
            "path": str(item.path),
            "num_bytes": item.num_bytes,
            "what": item.what,
        }

    return {
        "items": [plain(item) for item in found.items],
        "num_bytes": found.num_bytes,
        "kept": [plain(item) for item in found.kept],
        "writers": found.writers,
        "deleted": [str(item.path) for item in deleted],
    }


def _show(found: Found, deleted: list[Item], force: bool) -> None:
    from store.inspection.collect import COSTS

    if found.items:
        _table("Deleted" if force else "Can be deleted", found.items)
        kinds = dict.fromkeys(item.kind for item in found.items)
        verb = "Costs" if force else "Deleting costs"
        show_lines([f"{verb} ({kind}): {COSTS[kind]}." for kind in kinds])
    if found.kept:
        _table("Kept", found.kept)
    total = readable_bytes(found.num_bytes)
    if not found.items:
        show_lines(["Nothing to delete."])
    elif force:
        show_lines([f"Deleted {plural(len(deleted), 'thing')}, {total}."])
    else:
        writing = f" Not now: {found.writers[0]}." if found.writers else ""
        show_lines([f"{plural(len(found.items), 'thing')}, {total}; --force deletes.{writing}"])


def _table(title: str, items: list[Item]) -> None:
    rows = [
        (item.kind, readable_bytes(item.num_bytes), item.what, _short(item.path)) for item in items
    ]
    show_table(title, ("kind", "size", "what", "where"), rows, num_left=4)


def _short(path: Path) -> str:
    """Return a path whose last part is a key or a digest with the first letters of that."""
    name = path.name
    return str(path if len(name) <= _MOST_LETTERS else path.with_name(f"{name[:12]}.."))

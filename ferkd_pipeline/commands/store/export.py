"""`ferkd-pipeline store export`: a selection of crops as one CSV, Parquet or Arrow file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.commands.store.shared import as_options, plural, root_of, root_option
from ferkd_pipeline.plain import say
from store.errors import ParamsError
from store.units import readable_bytes

if TYPE_CHECKING:
    from store.inspection.export import ExportPlan

EPILOG = """
\b
Examples:
  ferkd-pipeline store export all.parquet      all there is
  ferkd-pipeline store export unsure.csv --max-prob 0:0.3 --class tench
  ferkd-pipeline store export dropped.arrow --calibration ferkd --action drop
  ferkd-pipeline store export - --columns path,class_0,prob_0 --limit 5

Conditions add up: a crop must meet all of them; of an option given several times, one value.
"""

_NAMED = (
    *("shard", "image_id", "class", "path", "action", "max_prob"),
    *("calibration", "columns", "artifact"),
)
"""Options that a message of the store may begin with."""


@click.command(epilog=EPILOG, short_help="Write chosen crops to CSV, Parquet or Arrow.")
@click.argument("out", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@root_option
@click.option("--shard", "shards", multiple=True, type=int, metavar="N", help="Of this shard.")
@click.option(
    "--image-id", "image_ids", multiple=True, type=int, metavar="N", help="Of this image."
)
@click.option(
    "--class", "classes", multiple=True, metavar="NAME|ID", help="Of images of this class."
)
@click.option("--path", metavar="GLOB", help="Of images whose path fits, such as 'rose/*.jpg'.")
@click.option(
    "--action",
    "actions",
    multiple=True,
    metavar="NAME",
    help="With this action: keep, drop, soften, revise, truth, reject; needs --calibration.",
)
@click.option("--max-prob", metavar="LO:HI", help="With a maximum probability of LO to below HI.")
@click.option("--calibration", metavar="NAME", help="Add the columns of this calibration.")
@click.option("--columns", metavar="A,B,..", help="Only these columns, in this order.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many rows.")
@click.option(
    "--artifact",
    default="labels",
    show_default=True,
    metavar="NAME",
    help="Columns of: labels (everything joined), crops, soft, calibrated/NAME, images, rejects, "
    "scores/NAME.",
)
@click.option("--force", is_flag=True, help="Replace OUT.")
@params_option
@json_option
def export(
    out: Path,
    root: Path | None,
    shards: tuple[int, ...],
    image_ids: tuple[int, ...],
    classes: tuple[str, ...],
    path: str | None,
    actions: tuple[str, ...],
    max_prob: str | None,
    calibration: str | None,
    columns: str | None,
    limit: int | None,
    artifact: str,
    force: bool,
    params_path: Path,
    as_json: bool,
) -> None:
    """Write crops with path, class, box, label and calibration side by side to OUT; its suffix says
    how: .csv, .parquet, .arrow, .feather or .ipc. `-` writes CSV to stdout.
    """
    from store.inspection import export as store_export
    from store.inspection.selection import ACTION_NAMES, Selection

    folder = root_of(root, params_path)
    for name in actions:
        if name not in ACTION_NAMES:
            raise ParamsError(f"--action {name}: must be one of {', '.join(ACTION_NAMES)}")
    wanted = [name.strip() for name in (columns or "").split(",") if name.strip()]
    if columns is not None and not wanted:
        raise ParamsError(f"--columns {columns!r}: names no column; leave it out for all of them")
    chosen = Selection(shards, image_ids, classes, path, actions, max_prob, limit)
    to_stdout = str(out) == "-"
    if to_stdout and as_json:
        raise ParamsError("--json: OUT is -, so stdout holds the rows; name a file")
    if not to_stdout:
        if out.is_file() and not force:
            raise ParamsError(f"{out} exists; --force replaces it")
        store_export.check_target(folder, out, force=force)
    with as_options(*_NAMED):
        plan = store_export.plan_export(folder, artifact, wanted, chosen, calibration)
    _write(plan, None if to_stdout else out, as_json)


def _write(plan: ExportPlan, out: Path | None, as_json: bool) -> None:
    from ferkd_pipeline import progress
    from store.inspection import export as store_export

    if out is None:
        with progress.watched() as watch:
            num_rows = store_export.export_csv(plan, sys.stdout.buffer, watch)
        say(plural(num_rows, "row"), err=True)
        return
    with progress.watched() as watch:
        num_rows = store_export.export(plan, out, watch)
    size = out.stat().st_size
    if as_json:
        print_json({"file": str(out), "rows": num_rows, "num_bytes": size})
    else:
        say(f"{out}: {plural(num_rows, 'row')}, {readable_bytes(size)}")

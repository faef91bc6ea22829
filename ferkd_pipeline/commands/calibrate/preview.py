"""`ferkd-pipeline calibrate preview`: what calibrations would do, without writing any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json, warn
from ferkd_pipeline.commands.store.shared import show_lines, show_table
from ferkd_pipeline.plain import say
from store.errors import ParamsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ferkd_pipeline.pages.table import Table
    from stages.calibrate.survey import Preview

EPILOG = """
\b
Examples:
  ferkd-pipeline calibrate preview        all calibrations of params.yaml
  ferkd-pipeline calibrate preview ferkd --page preview.html
  ferkd-pipeline calibrate preview --try '{step: ferkd, preset: auto}'
  ferkd-pipeline calibrate preview --try '[{step: revise}, {step: ferkd}]'

Nothing is written into the store. Of more than four million crops a sample is looked at, which
takes seconds at any size.
"""


@click.command(epilog=EPILOG, short_help="Show what calibrations would do.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--try",
    "tried",
    multiple=True,
    metavar="STEPS",
    help="Steps as they would stand in params.yaml: one, or a list. May be given several times. "
    "Without NAME only these are shown.",
)
@click.option("--all", "everything", is_flag=True, help="Count every crop, however many.")
@click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with pictures: histogram and thresholds, hardest and easiest crops.",
)
@click.option(
    "--images",
    "num_images",
    type=click.IntRange(0, 100),
    default=6,
    show_default=True,
    metavar="N",
    help="Images whose crops are pictured for each calibration.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws these images.")
@params_option
@json_option
def preview(
    names: tuple[str, ...],
    tried: tuple[str, ...],
    everything: bool,
    page: Path | None,
    num_images: int,
    seed: int,
    params_path: Path,
    as_json: bool,
) -> None:
    """Show what calibrations would do to crops, images and labels, and how reliable the teacher is
    on these crops. NAME is a calibration of params.yaml; none: all of them.
    """
    from ferkd_pipeline import params
    from ferkd_pipeline.preview import proposals

    values = params.load(params_path)
    recipes = proposals.recipes(values, names, tried)
    if page is not None:
        _check_page(page, values.store.root)
    source = proposals.source(values)

    from ferkd_pipeline import progress
    from ferkd_pipeline.preview import words
    from stages.calibrate import survey

    problem = None

    with progress.watched() as watch:
        found = survey.preview(recipes, source, watch, everything=everything)
        if page is not None:
            from ferkd_pipeline.preview.page import write_page

            folder = proposals.images_folder(values)
            problem = write_page(found, page, images=folder, num=num_images, seed=seed)
    for seen in found:
        for warning in words.warnings(seen):
            warn(warning)
    if as_json:
        from ferkd_pipeline.preview.as_json import to_json

        print_json(to_json(found))
    else:
        _show(found, num_named=len(recipes) - len(tried))
    if page is not None and problem is not None:
        warn(f"{page}: {problem}")
    elif page is not None:
        say(f"{page}: the same with pictures", err=True)


def _check_page(page: Path, root: Path) -> None:
    """Refuse a page that cannot or must not be written, before the work."""
    if page.resolve().is_relative_to(root.resolve()):
        raise ParamsError(f"--page {page}: lies in the label store, allowed: a file outside it")
    if not page.parent.is_dir():
        raise ParamsError(f"--page {page}: there is no folder {page.parent}; make it first")


def _show(found: Sequence[Preview], num_named: int) -> None:
    from ferkd_pipeline.preview import bins, words

    show_lines([words.looked_at(found[0])])
    if len(found) > 1:
        _show_table(words.comparison(found))
    for seen in found:
        _show_table(words.actions(seen, f"Calibration {seen.recipe.name}"))
        steps = [f"{n}. {line}" for n, line in enumerate(words.step_lines(seen), 1)]
        show_lines([*steps, *words.lines(seen), *words.suspect_lines(seen)])
    for table in bins.tables(found):
        _show_table(table)
    say()
    show_lines([words.next_line(num_named, found[num_named:])])


def _show_table(table: Table) -> None:
    show_table(table.title, table.header, table.rows, table.notes)

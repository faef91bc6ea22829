"""`ferkd-pipeline teacher check`: how right the teacher is, and the classic mistakes by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json, warn
from ferkd_pipeline.commands.store.shared import show_lines, show_table
from store.errors import DataError

if TYPE_CHECKING:
    from stages.infer.examine.projections import CheckedProjection
    from stages.infer.examine.run import Checked

EPILOG = """
\b
Examples:
  ferkd-pipeline teacher check                    the first of evaluate.sets
  ferkd-pipeline teacher check --images imagenet/val --limit 2000
  ferkd-pipeline teacher check --json > teacher.json

Exit code 3 when labels of this teacher would be wrong: it is near chance, it has other classes or
counts them in another order, other pixels suit it much better, or its outputs are not finite.
Nothing is written.
"""


@click.command(epilog=EPILOG, short_help="Measure the teacher; find the classic mistakes.")
@click.option(
    "--images",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder of class folders to ask about; default: the first of evaluate.sets.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Ask about N images at most, spread over the classes; default: all.",
)
@params_option
@json_option
def check(folder: Path | None, limit: int | None, params_path: Path, as_json: bool) -> None:
    """Ask the teachers of `infer.teacher` about images whose class is known, before a long run:
    accuracy of each and of their average, the order of the classes, the pixels that they want, and
    how sure they are.
    """
    from ferkd_pipeline import params

    values = params.load(params_path)

    from ferkd_pipeline import progress
    from ferkd_pipeline.teacher_check import words
    from ferkd_pipeline.teacher_check.look import look

    with progress.watched() as watch:
        found = look(values, folder, limit, watch)
    if as_json:
        from ferkd_pipeline.teacher_check.as_json import to_json

        print_json(to_json(found))
    else:
        _show(found)
    if found.problems:
        raise DataError(words.complaint(found))


def _show(found: Checked | CheckedProjection) -> None:
    from ferkd_pipeline.teacher_check import words
    from stages.infer.examine.run import Checked

    show_lines([words.head(found)])
    if isinstance(found, Checked):
        table = words.accuracies(found)
        show_table(table.title, table.header, table.rows, table.notes)
        click.echo()
        show_lines(words.sureness(found))
    else:
        show_lines(words.projection_lines(found))
    for each in found.findings:
        if each.is_problem:
            show_lines([f"WRONG: {each.message}"])
        else:
            warn(each.message)
    if not found.problems and not any(each.kind == "too_few" for each in found.findings):
        show_lines([words.verdict(found)])

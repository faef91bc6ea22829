"""`ferkd-pipeline plan`: crops, hours and bytes of every stage, before anything is made."""

from __future__ import annotations

from pathlib import Path

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json, warn
from ferkd_pipeline.commands.store.shared import show_lines, show_table

EPILOG = """
\b
Examples:
  ferkd-pipeline plan
  ferkd-pipeline plan --seconds 120 --gpus 8
  ferkd-pipeline plan --json > plan.json

Needs the stage index, and the teacher. It is an estimate: a few images are taken through every
stage, and what they took is scaled up.
"""


@click.command(epilog=EPILOG, short_help="Estimate crops, hours and bytes of every stage.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1, max=3600),
    default=30.0,
    show_default=True,
    help="How long to measure, about.",
)
@click.option(
    "--gpus",
    type=click.IntRange(1, 100_000),
    default=1,
    show_default=True,
    metavar="N",
    help="GPUs that label at the same time.",
)
@click.option("--no-train", is_flag=True, help="Leave the training of the student out.")
@params_option
@json_option
def plan(seconds: float, gpus: int, no_train: bool, params_path: Path, as_json: bool) -> None:
    """Take some images through all stages on this machine, and say what all of them will take:
    crops, hours of GPU and CPU, bytes on disk. Nothing of it is kept.
    """
    from ferkd_pipeline import params

    values = params.load(params_path)

    from ferkd_pipeline import progress
    from ferkd_pipeline.planning import words
    from ferkd_pipeline.planning.estimate import estimate
    from ferkd_pipeline.planning.measured import measure_all

    with progress.watched() as watch:
        sample = measure_all(values, seconds, watch, with_train=not no_train)
    found = estimate(values, sample, gpus)
    for warning in words.warnings(found):
        warn(warning)
    if as_json:
        from ferkd_pipeline.planning.as_json import to_json

        print_json(to_json(found))
        return
    show_lines([words.head(found)])
    table = words.stages(found)
    show_table(table.title, table.header, table.rows, table.notes)
    click.echo()
    show_lines(words.lines(found))

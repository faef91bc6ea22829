"""`ferkd-pipeline params`: the keys of params.yaml."""

import click

from ferkd_pipeline import stage_table
from ferkd_pipeline.commands.options import json_option, print_json

SECTIONS = ("store", *stage_table.STAGE_NAMES)

EPILOG = """
\b
Examples:
  ferkd-pipeline params train
  ferkd-pipeline params sample --json
"""


@click.command(epilog=EPILOG, short_help="List the keys of params.yaml.")
@click.argument("section", metavar="SECTION", type=click.Choice(SECTIONS))
@json_option
def params(section: str, as_json: bool) -> None:
    """List the keys of a SECTION of params.yaml: what each takes, its default, and what it means.

    Sections are store and the names of the stages.
    """
    from dataclasses import asdict

    from ferkd_pipeline.keys import keys

    found = keys(section)
    if as_json:
        print_json([asdict(key) for key in found])
        return
    for key in found:
        click.echo(click.style(key.name, bold=True) + f": {key.kind} ({key.default})")
        if key.text:
            click.echo(click.wrap_text(key.text, 98, "    ", "    "))

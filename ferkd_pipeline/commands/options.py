"""Options that several commands share, and how they print."""

import json
from pathlib import Path

import click

from ferkd_pipeline.plain import one_line

params_option = click.option(
    "--params",
    "params_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("params.yaml"),
    show_default=True,
    help="File of parameters.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, for scripts."
)


def print_json(value: object) -> None:
    """Print a result for scripts, on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def warn(message: str) -> None:
    """Print a sentence that deserves attention, on stderr."""
    click.echo(f"Warning: {one_line(message)}", err=True)

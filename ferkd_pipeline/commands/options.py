"""Options that several commands share, and how they print."""

import json
import sys
from pathlib import Path

import click

from ferkd_pipeline.plain import say

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
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # JSON has escapes of its own for what stdout has no letter for
        text = json.dumps(value, indent=2)
    click.echo(text)


def warn(message: str) -> None:
    """Print a sentence that deserves attention, on stderr."""
    say(f"Warning: {message}", err=True)

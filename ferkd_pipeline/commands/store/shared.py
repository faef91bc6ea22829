"""What the commands of `store` share: where the store is, and how tables are printed."""

from __future__ import annotations

import re
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferkd_pipeline.plain import one_line
from store.errors import DataError, ParamsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

_WIDE = 240
"""Columns of a table where no terminal limits them: rows in a file or a pipe stay lines."""
_TEXT = 100
"""Columns of running text there."""

root_option = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the store; default: store.root of params.yaml.",
)

calibrations_option = click.option(
    "--calibration",
    "calibrations",
    multiple=True,
    metavar="NAME",
    help="Count also what this calibration does; may be given several times.",
)


def root_of(root: Path | None, params_path: Path) -> Path:
    """Return the folder of the store: the one named, or that of params.yaml.

    Raises:
        DataError: there is no such folder.
    """
    if root is None:
        from ferkd_pipeline import params

        root = params.load(params_path).store.root
    if not root.is_dir():
        raise DataError(f"{root}: there is no label store; `ferkd-pipeline stage index` begins one")
    return root


@contextmanager
def as_options(*names: str) -> Iterator[None]:
    """Name as options, as people typed them, what the store refuses by a plain name.

    Its messages begin with the name of what is wrong: `max_prob 0.7: must be ..`.
    """
    try:
        yield
    except ParamsError as error:
        message = str(error)
        word = re.match(r"\w+(?=[ :])", message)
        if word is None or word[0] not in names:
            raise
        option = "--" + word[0].replace("_", "-")
        raise ParamsError(option + message[word.end() :]) from None


def show_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    *,
    num_left: int = 1,
) -> None:
    """Print a table on stdout, its first columns to the left, and sentences below it."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, heading in enumerate(header):
        table.add_column(heading, justify="left" if number < num_left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(one_line, row))
    console = _console()
    console.print()
    console.print(one_line(title), style="bold", markup=False, highlight=False)
    console.print(table, markup=False)
    for note in notes:
        console.print(one_line(note), style="dim", markup=False, highlight=False)


def show_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names with what they stand for beside them, broken into a column of its own."""
    width = max((len(name) for name, _ in pairs), default=0) + 2
    for name, text in pairs:
        indent = " " * width
        lines = textwrap.wrap(
            one_line(text),
            max(width + 1, _console(_TEXT).width),
            initial_indent=indent,
            subsequent_indent=indent,
        )
        click.echo(one_line(name).ljust(width) + "\n".join(lines)[width:])


def show_lines(lines: Sequence[str]) -> None:
    """Print sentences on stdout, broken where the terminal ends."""
    for line in lines:
        _console().print(one_line(line), markup=False, highlight=False)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share as percent, without the sign; `-` where there is none."""
    return "-" if share is None else f"{100 * share:.{digits}f}"


def _console(width: int = _WIDE) -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=width)

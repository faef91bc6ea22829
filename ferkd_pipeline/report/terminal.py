"""The report on the terminal: results, so stdout."""

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable

from ferkd_pipeline.pages.table import Table
from ferkd_pipeline.plain import one_line
from ferkd_pipeline.report.gather import Results
from ferkd_pipeline.report.tables import tables


def show(results: Results, console: Console | None = None) -> None:
    """Print every table for which there are results."""
    console = console or Console()
    if results.is_empty:
        console.print("Nothing to report: no stage has run here.")
        return
    for table in tables(results):
        console.print(_rich(table), markup=False)
        for note in table.notes:
            console.print(one_line(note), style="dim", markup=False, highlight=False)
        console.print()


def _rich(table: Table) -> RichTable:
    shown = RichTable(
        title=one_line(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    for number, heading in enumerate(map(one_line, table.header)):
        justify: JustifyMethod = "left" if number == 0 else "right"
        shown.add_column(heading, justify=justify, overflow="fold", no_wrap=number == 0)
    for row in table.rows:
        shown.add_row(*map(one_line, row))
    return shown

"""`ferkd-pipeline report`: the results so far, as a table here and as a page for the browser."""

from pathlib import Path

import click

from ferkd_pipeline.commands.options import params_option
from ferkd_pipeline.plain import say

EPILOG = """
\b
Examples:
  ferkd-pipeline report                      print, and write metrics/report/report.html
  ferkd-pipeline report --out result.html    write elsewhere

The page holds its figures inside: it needs no network and can be sent as it is.
"""


@click.command(epilog=EPILOG, short_help="Print the results and write them as a page.")
@params_option
@click.option(
    "--metrics",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("metrics"),
    show_default=True,
    help="Folder that stages wrote their metrics to.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("metrics/report/report.html"),
    show_default=True,
    help="Page to write; summary.json and max_prob.csv appear beside it.",
)
@click.option("--quiet", is_flag=True, help="Only write the page.")
@click.option("--no-page", is_flag=True, help="Only print.")
def report(params_path: Path, metrics: Path, out: Path, quiet: bool, no_page: bool) -> None:
    """Gather what all stages that have run found: accuracy, time per step, labels, lineage."""
    from ferkd_pipeline import params
    from ferkd_pipeline import report as reports

    values = params.load(params_path)
    found = reports.gather(metrics, values.store.root, values.sections)
    if not quiet:
        reports.show(found)
    if not no_page:
        reports.write_page(found, out)
        if not quiet:
            say(f"{out}: the same with figures", err=True)

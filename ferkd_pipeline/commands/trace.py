"""`ferkd-pipeline trace`: what made a student, a label, a metric."""

from pathlib import Path

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json

EPILOG = """
\b
Examples:
  ferkd-pipeline trace models/student
  ferkd-pipeline trace labels/soft/part-00003.parquet
  ferkd-pipeline trace labels/calibrated/ferkd --json
  ferkd-pipeline trace metrics/train
"""


@click.command(epilog=EPILOG, short_help="Say what made a student, a label, a metric.")
@click.argument("path", metavar="FILE|FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the store that a model or view came from; default: store.root of params.yaml.",
)
@params_option
@json_option
def trace(path: Path, root: Path | None, params_path: Path, as_json: bool) -> None:
    """Follow FILE or FOLDER up to the images: training view, calibration, soft labels, predictions,
    teacher and crops, each with its parameters and digest, and say whether what lies in the store
    now is still what was used.
    """
    from ferkd_pipeline.trace.subject import trace as chain_of

    if root is None:
        from ferkd_pipeline import params

        root = params.load(params_path).store.root if params_path.is_file() else Path("labels")
    found = chain_of(path, root)
    if as_json:
        print_json(found.to_json())
        return
    from ferkd_pipeline.trace.show import show

    show(found)

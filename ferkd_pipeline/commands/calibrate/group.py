"""The group `ferkd-pipeline calibrate`, one file a command."""

import click

from ferkd_pipeline.commands.calibrate.preview import preview

EPILOG = """
\b
Examples:
  ferkd-pipeline calibrate preview
  ferkd-pipeline calibrate preview --try '{step: ferkd, preset: auto}'
"""


@click.group(epilog=EPILOG, short_help="Try calibrations before they are written.")
def calibrate() -> None:
    """Look at calibrations before they are written: `ferkd-pipeline stage calibrate` writes those
    of params.yaml.
    """


calibrate.add_command(preview)

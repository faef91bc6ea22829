"""The group `ferkd-pipeline teacher`, one file a command."""

import click

from ferkd_pipeline.commands.teacher.check import check

EPILOG = """
\b
Examples:
  ferkd-pipeline teacher check
  ferkd-pipeline teacher check --images imagenet/val --limit 2000
"""


@click.group(epilog=EPILOG, short_help="Check the teacher before the long run.")
def teacher() -> None:
    """Look at the teachers of `infer.teacher` before they are asked about every crop:
    `ferkd-pipeline stage teacher` trains one.
    """


teacher.add_command(check)

"""The group `ferkd-pipeline store`, one file a command."""

import click

from ferkd_pipeline.commands.store.diff import diff
from ferkd_pipeline.commands.store.export import export
from ferkd_pipeline.commands.store.gc import gc
from ferkd_pipeline.commands.store.info import info
from ferkd_pipeline.commands.store.stats import stats
from ferkd_pipeline.commands.store.verify import verify

EPILOG = """
\b
Examples:
  ferkd-pipeline store info
  ferkd-pipeline store verify --root /data/labels
  ferkd-pipeline store stats --calibration ferkd
  ferkd-pipeline store diff --rev HEAD~1
  ferkd-pipeline store export hard.csv --max-prob 0:0.3 --class tench
\b
The tables need none of this to be read:
  python -c 'import pandas; print(pandas.read_parquet("labels/soft/"))'
"""


@click.group(epilog=EPILOG)
def store() -> None:
    """Look at a label store, check it, compare it, export from it, and clean up beside it."""


for _command in (info, verify, stats, diff, export, gc):
    store.add_command(_command)

"""The command line's root: what `ferkd-pipeline --help` shows."""

import click

from ferkd_pipeline import __version__
from ferkd_pipeline.commands.bench import bench
from ferkd_pipeline.commands.calibrate import calibrate
from ferkd_pipeline.commands.export import export
from ferkd_pipeline.commands.init import init
from ferkd_pipeline.commands.params import params
from ferkd_pipeline.commands.plan import plan
from ferkd_pipeline.commands.record import record
from ferkd_pipeline.commands.report import report
from ferkd_pipeline.commands.stage import stage
from ferkd_pipeline.commands.store import store
from ferkd_pipeline.commands.teacher import teacher
from ferkd_pipeline.commands.trace import trace

EPILOG = """
\b
Begin with your own class folders of images:
  ferkd-pipeline init my-project --recipe quick --images train/ --val val/
  cd my-project && dvc repro
\b
Or run one stage by hand, or on a cluster:
  ferkd-pipeline stage infer --shard 3

Exit codes: 0 done, 1 failed, 2 wrong parameters, 3 data damaged or not matching, 42 a shard that
cannot succeed, 75 try again, 130 interrupted, 143 told to end. --debug, anywhere on the line, shows
tracebacks.
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ferkd-pipeline")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def root() -> None:
    """Ask a teacher about random crops of every image once, store what it said, and train students
    from the store.
    """


_RUN = (init, params, plan, stage, record)
_LOOK = (store, teacher, calibrate, bench, export, report, trace)
for _command in (*_RUN, *_LOOK):
    root.add_command(_command)

"""`ferkd-pipeline record`: tell DVC about shards that were made outside of `dvc repro`."""

import dataclasses
from pathlib import Path

import click

from ferkd_pipeline import stage_table
from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.plain import say

EPILOG = """
\b
Example, on a cluster with 64 shards:
  sbatch --array=0-63 --wrap "ferkd-pipeline stage infer --shard auto"
  ferkd-pipeline record infer        when the array has ended
  dvc repro                          goes on after infer
"""


@click.command(epilog=EPILOG, short_help="Tell DVC about shards made outside of it.")
@click.argument(
    "name", metavar="[STAGE]", required=False, type=click.Choice(stage_table.STAGE_NAMES)
)
@params_option
@json_option
def record(name: str | None, params_path: Path, as_json: bool) -> None:
    """Check that all shards of a stage are complete, write its manifest, and record it with DVC, so
    that the next `dvc repro` does not run it again. Without STAGE: every stage with shards that
    params.yaml has a section for. Works without DVC too: then only the manifest is written.
    """
    from ferkd_pipeline import params, recording

    values = params.load(params_path)
    sharded = [info.name for info in stage_table.STAGES if info.sharded]
    names = [name] if name else [each for each in sharded if each in values.sections]
    outcomes = [recording.record_stage(values, each) for each in names]
    if as_json:
        print_json([dataclasses.asdict(outcome) for outcome in outcomes])
        return
    for outcome in outcomes:
        shards = f"{outcome.num_shards} shards complete, {outcome.manifest}"
        done = shards if outcome.manifest else "complete"
        say(f"{outcome.stage}: {done}; {outcome.dvc}")

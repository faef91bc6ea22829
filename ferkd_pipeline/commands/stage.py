"""`ferkd-pipeline stage NAME`: run a stage, all of it or some of its shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferkd_pipeline import stage_table
from ferkd_pipeline.commands.options import json_option, params_option, print_json, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ferkd_pipeline.engine import ShardOutcome, ShardPlan, StageOutcome

EPILOG = (
    "\b\nStages, in the order of the data's way (* works shard by shard):\n"
    + "\n".join(
        f"  {info.name + ('*' if info.sharded else ''):<11}{info.summary}"
        + (" (optional)" if info.optional else "")
        for info in stage_table.STAGES
    )
    + """

\b
Examples:
  ferkd-pipeline stage sample                all shards; what is complete is skipped
  ferkd-pipeline stage infer --dry-run       list each shard: skip or run, and why
  ferkd-pipeline stage infer --shard 3       one shard, say after it was lost
  ferkd-pipeline stage infer --shard auto    the shards of this Slurm, Kubernetes or torchrun task
"""
)


@click.command(epilog=EPILOG, short_help="Run a stage, or some of its shards.")
@click.argument("name", metavar="NAME", type=click.Choice(stage_table.STAGE_NAMES))
@click.option(
    "--shard",
    "wanted",
    multiple=True,
    metavar="N|auto",
    help="Only this shard; may be given several times. auto: task i of n of a cluster takes the "
    "shards s with s % n = i.",
)
@params_option
@click.option("--dry-run", is_flag=True, help="Only list each shard: skip or run, and why.")
@click.option("--force", is_flag=True, help="Run also what is complete.")
@json_option
def stage(
    name: str,
    wanted: tuple[str, ...],
    params_path: Path,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Run one stage. What is complete and still fits its inputs and parameters is skipped.

    Killed at any moment, the same command goes on: stages with shards after the last one that is
    complete (infer after the last block), trainings from their last checkpoint, the others from
    their start.
    """
    from ferkd_pipeline import params, progress, shards

    values = params.load(params_path)
    chosen = shards.choose(stage_table.find(name), wanted, values.store.num_shards)

    # Only now: wrong parameters need not wait for numpy and pyarrow.
    from ferkd_pipeline import engine
    from stages.shared import processes

    if dry_run:
        _show_plan(name, engine.plan_stage(values, name, chosen, force=force), as_json)
        return
    with progress.watched() as watch:
        outcome = engine.run_stage(values, name, chosen, progress=watch, force=force)
    if processes.rank() and not stage_table.find(name).sharded:
        return  # the first process speaks for those that trained with it
    _show_outcome(name, outcome, as_json)
    if chosen and not as_json:
        click.echo(f"{name}: when all shards are done: ferkd-pipeline record {name}")


def _show_plan(name: str, plans: Sequence[ShardPlan], as_json: bool) -> None:
    if as_json:
        print_json({"stage": name, "shards": [_as_json(plan) for plan in plans]})
        return
    for plan in plans:
        click.echo(f"{_label(name, plan)}: {plan.action}: {plan.why}")


def _show_outcome(name: str, outcome: StageOutcome, as_json: bool) -> None:
    for warning in outcome.warnings:
        warn(f"{name}: {warning}")
    if as_json:
        shards = [_as_json(done) for done in outcome.shards]
        print_json({"stage": name, **dataclasses.asdict(outcome), "shards": shards})
        return
    for line in outcome.lines:
        click.echo(f"{name}: {line}")
    click.echo(_summary(name, outcome.shards))


def _as_json(shard: ShardPlan | ShardOutcome) -> dict[str, object]:
    found = dataclasses.asdict(shard)
    return {name: value for name, value in found.items() if (name, value) != ("calibration", None)}


def _summary(name: str, shards: Sequence[ShardOutcome]) -> str:
    num_run = len({done.shard for done in shards if done.action == "run"})
    if not shards:
        return f"{name}: no shard falls to this task"
    if not num_run:
        return f"{name}: complete already, nothing to do"
    if shards[0].shard is None:
        return f"{name}: done"
    skipped = len({done.shard for done in shards}) - num_run
    kept = f", {skipped} complete already" if skipped else ""
    return f"{name}: {num_run} {'shard' if num_run == 1 else 'shards'} done{kept}"


def _label(name: str, plan: ShardPlan) -> str:
    whose = "" if plan.calibration is None else f" {plan.calibration}"
    return name if plan.shard is None else f"{name}{whose} shard {plan.shard}"

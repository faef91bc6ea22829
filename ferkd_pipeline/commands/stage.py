"""`ferkd-pipeline stage NAME`: run a stage, all of it or some of its shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferkd_pipeline import stage_table
from ferkd_pipeline.commands.options import json_option, params_option, print_json, warn
from ferkd_pipeline.executors import EXECUTORS, LOCAL, RAY
from ferkd_pipeline.plain import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ferkd_pipeline.engine import ShardOutcome, ShardPlan, StageOutcome
    from ferkd_pipeline.params import Params
    from stages.shared.contract import Progress

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
  ferkd-pipeline stage infer --executor ray  all shards, on the nodes of a Ray cluster
  torchrun --nproc-per-node 8 -m ferkd_pipeline stage infer    a share of the shards each
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
@click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default=LOCAL,
    show_default=True,
    help="Where shards run: in this process, or each as a task of a Ray cluster.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Of the cluster. Default: RAY_ADDRESS, else one that runs here, else one started here.",
)
@click.option(
    "--ray-cpus",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="CPUs of a task. Default: num_workers of infer, as far as a node has them; else 1.",
)
@json_option
def stage(
    name: str,
    wanted: tuple[str, ...],
    params_path: Path,
    dry_run: bool,
    force: bool,
    executor: str,
    ray_address: str | None,
    ray_cpus: int | None,
    as_json: bool,
) -> None:
    """Run one stage. What is complete and still fits its inputs and parameters is skipped.

    Killed at any moment, the same command goes on: stages with shards after the last one that is
    complete (infer after the last block), trainings from their last checkpoint, the others from
    their start.
    """
    from ferkd_pipeline import params, progress, shards

    _check_executor(executor, ray_address, ray_cpus, wanted)
    values = params.load(params_path)
    chosen = shards.choose(stage_table.find(name), wanted, values.store.num_shards)

    # Only now: wrong parameters need not wait for numpy and pyarrow.
    from ferkd_pipeline import engine
    from stages.shared import processes

    if dry_run:
        _show_plan(name, engine.plan_stage(values, name, chosen, force=force), as_json)
        return
    with progress.watched() as watch:
        if chosen is not None and not wanted:
            watch.note(f"{name}: {shards.share_of(chosen)}")
        if executor == RAY:
            outcome = _run_on_ray(values, name, chosen, watch, force, ray_address, ray_cpus)
        else:
            outcome = engine.run_stage(values, name, chosen, progress=watch, force=force)
    if processes.rank() and not stage_table.find(name).sharded:
        return  # the first process speaks for those that trained with it
    _show_outcome(name, outcome, as_json)
    if chosen and not as_json:
        when = "all are complete; for DVC" if outcome.is_complete else "when all shards are done"
        say(f"{name}: {when}: ferkd-pipeline record {name}")


def _check_executor(
    executor: str, address: str | None, cpus: int | None, wanted: Sequence[str]
) -> None:
    from ferkd_pipeline import shards

    if executor == RAY and (shards.AUTO in wanted or shards.is_one_of_several()):
        raise click.UsageError(
            "--executor ray deals out the shards itself: start it once, without --shard auto"
        )
    if executor != RAY and (address is not None or cpus is not None):
        option = "--ray-address" if address is not None else "--ray-cpus"
        raise click.UsageError(f"{option} needs --executor ray")


def _run_on_ray(
    values: Params,
    name: str,
    chosen: tuple[int, ...] | None,
    watch: Progress,
    force: bool,
    address: str | None,
    cpus: int | None,
) -> StageOutcome:
    from ferkd_pipeline.executors import ray_stage

    options = ray_stage.Options(address, cpus)
    return ray_stage.run_stage(values, name, chosen, progress=watch, force=force, options=options)


def _show_plan(name: str, plans: Sequence[ShardPlan], as_json: bool) -> None:
    if as_json:
        print_json({"stage": name, "shards": [_as_json(plan) for plan in plans]})
        return
    for plan in plans:
        say(f"{_label(name, plan)}: {plan.action}: {plan.why}")


def _show_outcome(name: str, outcome: StageOutcome, as_json: bool) -> None:
    for warning in outcome.warnings:
        warn(f"{name}: {warning}")
    if as_json:
        shards = [_as_json(done) for done in outcome.shards]
        print_json({"stage": name, **dataclasses.asdict(outcome), "shards": shards})
        return
    for line in outcome.lines:
        say(f"{name}: {line}")
    say(_summary(name, outcome.shards))


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

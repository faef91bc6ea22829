"""`ferkd-pipeline bench infer`: how fast labelling is here, and what it waits for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.plain import say

if TYPE_CHECKING:
    from stages.infer.measure import Measured

_PARTS = {
    "read": "read files, compare their hashes",
    "decode": "decode",
    "crop": "cut out and resize crops",
    "forward": "the teacher's forward",
    "keep": "rank classes, copy back",
    "write": "write blocks",
}
"""In the order of the data's way."""

_WAITS = {
    "wait for pixels": "the teacher waited for pixels",
    "wait for the device": "the processor waited for the GPU",
}
_MUCH_WAITING = 0.1


_EXAMPLES = """
\b
Examples:
  ferkd-pipeline bench infer           half a minute of the first shard
  ferkd-pipeline bench infer --json    crops/s, seconds by part, bytes a crop
"""


@click.group(epilog=_EXAMPLES, short_help="Measure stages on this machine.")
def bench() -> None:
    """Measure stages on this machine, with the project's own images and parameters."""


@bench.command(epilog=_EXAMPLES, short_help="Speed of labelling beside the teacher's bare forward.")
@click.option("--shard", type=click.IntRange(min=0), default=0, show_default=True, metavar="N")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1, max=3600),
    default=30.0,
    show_default=True,
    help="How long to measure, about.",
)
@params_option
@json_option
def infer(shard: int, seconds: float, params_path: Path, as_json: bool) -> None:
    """Label some of a shard's images as stage infer would, and throw the labels away.

    Prints crops a second beside those of the teacher's forward over crops that lie on its device
    already, and where the time goes. Needs the stages index and sample.
    """
    from ferkd_pipeline import params, progress, shards, stage_table

    values = params.load(params_path)
    shards.choose(stage_table.find("infer"), [str(shard)], values.store.num_shards)

    from ferkd_pipeline import jobs
    from stages.infer.config import Config
    from stages.infer.inputs import open_inputs
    from stages.infer.measure import measure

    config = values.typed("infer", Config)
    inputs = open_inputs(config, jobs.source_of(values))(shard)
    with progress.watched() as watch:
        found = measure(config, inputs, seconds, watch)
    if as_json:
        print_json(
            {
                **dataclasses.asdict(found),
                "crops_per_second": found.crops_per_second,
                "share_of_bare": found.share_of_bare,
            }
        )
        return
    names = ", ".join(teacher.name for teacher in inputs.teachers)
    say(f"{names}: {config.precision}, batches of {config.batch_size}, on {found.device}")
    for line in _lines(found, config.num_workers):
        say(line)


def _lines(found: Measured, num_workers: int) -> list[str]:
    rates = {"stage infer": found.crops_per_second, "bare forward": found.bare_crops_per_second}
    lines = [f"  {name:<14}{rate:>10,.1f} crops/s" for name, rate in rates.items()]
    lines += [
        f"  {'share':<14}{found.share_of_bare:>10.1%} of the bare forward's speed",
        f"  {'on disk':<14}{found.bytes_per_crop:>10,.1f} bytes a crop",
        "",
        f"Where the time goes, in seconds ({found.num_images:,} images, {found.num_crops:,} crops, "
        f"{found.wall_seconds:.1f} s in all;",
        "threads work beside each other)",
    ]
    for part, meaning in _PARTS.items():
        lines.append(f"  {found.seconds.get(part, 0.0):>8.2f}  {meaning}")
    lines.append("")
    for part, meaning in _WAITS.items():
        if part in found.seconds:
            lines.append(f"  {found.seconds[part] / found.wall_seconds:>8.1%}  {meaning}")
    if found.device != "cpu" and _waits_for_pixels(found) > _MUCH_WAITING:
        lines += [
            "",
            f"The GPU lacks pixels: raise infer.num_workers (now {num_workers}), or give it more "
            "cores or faster disks.",
        ]
    return lines


def _waits_for_pixels(found: Measured) -> float:
    return found.seconds.get("wait for pixels", 0.0) / found.wall_seconds

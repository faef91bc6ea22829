"""Everything that `benchmarks/train.py` measures."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.training import gpu, loading, losses, steps, tables, world
from benchmarks.training.turns import on_cores
from store.errors import FerkdError

PARTS = ("loss", "loader", "step")


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    given = _parser().parse_args(argv)
    try:
        found = run(given)
    except (FerkdError, OSError, ValueError) as error:
        print(f"benchmarks/train.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1) if given.json else tables.tables(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/train.py",
        description="Loss, loader and step of training beside FKD's published procedure.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--rounds", type=int, default=9, help="rounds in turns (%(default)s)")
    parser.add_argument("--images", type=int, default=128, help="JPEG files (%(default)s)")
    parser.add_argument("--crops", type=int, default=200, help="crops of each (%(default)s)")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    return parser


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    found: dict[str, Any] = {}
    parts = PARTS if given.only is None else (given.only,)
    if "loss" in parts:
        _say("loss")
        found |= losses.ratios(given.rounds)
    if "loader" in parts or "step" in parts:
        with tempfile.TemporaryDirectory(prefix="ferkd-bench-") as folder:
            _say("writing images and labels")
            made = world.make(Path(folder), given.images, given.crops)
            found |= _with_images(parts, made, given.rounds)
    return {**found, "rounds": given.rounds, "machine": measure.machine()}


def _with_images(parts: Sequence[str], made: world.World, rounds: int) -> dict[str, Any]:
    files = [path.stat().st_size for path in made.images.rglob("*.JPEG")]
    found: dict[str, Any] = {
        "num_images": len(files),
        "num_crops": made.labels.num_crops,
        "mean_file_bytes": sum(files) / len(files),
    }
    with on_cores(1):
        if "loader" in parts:
            _say("loader")
            found |= loading.rates(made, rounds) | loading.pixel_differences(made)
        if "step" in parts:
            _say("step")
            found |= steps.ratios(made, rounds)
    if "loader" in parts:
        if torch.cuda.is_available():
            _say("GPU")
            found |= gpu.measure(made, rounds, found["reference_rate_m4"])
        else:
            print(gpu.NO_GPU, file=sys.stderr, flush=True)
    return found


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)

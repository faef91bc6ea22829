"""Everything that `benchmarks/infer.py` measures."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.labelling import cropping, gpu, sampling
from benchmarks.report import number, table
from benchmarks.training import world
from benchmarks.training.turns import on_cores
from stages.infer.feed import Crops
from store.errors import FerkdError
from store.layout import Layout

PARTS = ("sample", "crops", "gpu")
_ROWS = (
    ("sample_rate", "drawing crops, crops/s, one core", ">= 1e6"),
    ("infer_cpu_ratio", "bicubic crops on one core, against FKD's procedure", ">= 3.3"),
    ("infer_reference_rate", "FKD's, crops/s", ""),
    ("infer_cpu_rate", "ours, normalised, crops/s", ""),
    ("infer_cpu_uint8_rate", "ours, uint8 as a GPU is given them, crops/s", ""),
    ("infer_cpu_bilinear_ratio", "bilinear crops on one core, against FKD's procedure", ""),
    ("bilinear_share_within_2", "values within 2 levels of Pillow's, bilinear", ">= 0.9999"),
    ("bilinear_max_difference", "largest difference, bilinear", "<= 2"),
    ("bicubic_share_within_2", "values within 2 levels of Pillow's, bicubic", ""),
    ("bicubic_max_difference", "largest difference, bicubic", "<= 8"),
    ("gpu_forward_share", "stage infer on the GPU, against the bare forward", ">= 0.95"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    given = _parser().parse_args(argv)
    try:
        found = run(given)
    except (FerkdError, OSError, ValueError) as error:
        print(f"benchmarks/infer.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1) if given.json else _table(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/infer.py",
        description="Drawing and labelling crops beside FKD's published procedure.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=7, help="rounds in turns (%(default)s)")
    parser.add_argument("--images", type=int, default=64, help="JPEG files (%(default)s)")
    parser.add_argument("--crops", type=int, default=200, help="crops of each (%(default)s)")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    return parser


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    parts = PARTS if given.only is None else (given.only,)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ferkd-bench-") as name:
        folder = Path(name)
        if "sample" in parts:
            _say("drawing crops")
            with on_cores(1):
                found |= sampling.rates(folder / "sample", given.crops, given.rounds)
        if "crops" in parts or "gpu" in parts:
            _say("writing images and crops")
            made = world.make(folder / "world", given.images, given.crops)
            found |= _with_images(parts, folder, made, given.rounds)
    return {**found, "rounds": given.rounds, "machine": measure.machine()}


def _with_images(
    parts: Sequence[str], folder: Path, made: world.World, rounds: int
) -> dict[str, Any]:
    labels, found = made.labels, dict[str, Any]()
    crops = Crops(labels.boxes, labels.flips)
    if "crops" in parts:
        _say("crops")
        with on_cores(1):
            found |= cropping.rates(made.images, labels.table, crops, rounds)
            found |= cropping.pixel_differences(made.images, labels.table, crops)
    if "gpu" in parts and torch.cuda.is_available():
        _say("GPU")
        layout = Layout.beside(folder / "gpu" / "labels")
        found |= gpu.shares(layout, made.images, labels, min(rounds, 3))
    elif "gpu" in parts:
        print(gpu.NO_GPU, file=sys.stderr, flush=True)
    return found


def _table(found: dict[str, Any]) -> str:
    rows = [(text, number(found[key]), reach) for key, text, reach in _ROWS if key in found]
    known = {key for key, _, _ in _ROWS}
    gpu_keys = [key for key in found if key.startswith("gpu_") and key not in known]
    return table(
        ("figure", "measured", "reach"), rows + [(k, number(found[k]), "") for k in gpu_keys]
    )


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)

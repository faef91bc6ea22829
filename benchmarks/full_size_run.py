"""What `benchmarks/full_size.py` does: the phases in order, and a table of them."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure, phases, report, sizes, worker
from benchmarks.phases import Run, Usage, Work
from benchmarks.synthetic import Synthetic
from stages.compress.config import Config as CompressConfig
from store.atomic import write_bytes
from store.errors import FerkdError

_BUILDING: tuple[tuple[str, Work, bool], ...] = (
    ("images", phases.write_images, False),
    ("crops", phases.write_crops, True),
    ("labels", phases.write_soft, True),
    ("fit", phases.fit_calibration, False),
    ("calibration", phases.write_calibration, True),
    ("revision", phases.write_revision, True),
    ("preview", phases.preview_some, False),
    ("preview --all", phases.preview_all, False),
    ("view", phases.build_view, False),
)
"""Name, function, and whether shards are dealt to several processes."""

_READING: tuple[tuple[str, Work, bool], ...] = (
    ("verify", phases.verify_store, False),
    ("scan", phases.scan_store, False),
    ("fetch_cold", phases.fetch_cold, False),
    ("fetch_warm", phases.fetch_warm, False),
)

Json = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    given = _parser().parse_args(argv)
    out: Path = given.out.resolve()
    os.environ["FERKD_CACHE"] = str(out / ".ferkd" / "view")
    os.environ["OMP_NUM_THREADS"] = "1"
    synthetic = Synthetic(given.images, given.crops, num_ranked=CompressConfig().k)
    run = Run(synthetic, given.shards, out, given.workers)
    out.mkdir(parents=True, exist_ok=True)
    try:
        found = measured(run)
    except (FerkdError, OSError) as error:
        print(f"benchmarks/full_size.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1) if given.json else tables(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/full_size.py",
        description="Build a label store of ImageNet's size and read it. Resumable.",
    )
    parser.add_argument("--images", type=int, default=1_281_167, help="default: %(default)s")
    parser.add_argument("--crops", type=int, default=200, help="of each image (%(default)s)")
    parser.add_argument("--shards", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything written")
    parser.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return parser


def measured(run: Run) -> Json:
    """All phases; figures of what was built in earlier runs come from DIR/phases.json."""
    book, settings = run.out / "phases.json", str((run.synthetic, run.num_shards))
    found: Json = json.loads(book.read_bytes()) if book.exists() else {}
    done: dict[str, Json] = found["phases"] if found.get("settings") == settings else {}
    for name, work, sharded in (*_BUILDING, *_READING):
        print(f"{name} ...", file=sys.stderr, flush=True)
        usages = phases.run_phase(run, work, sharded=sharded)
        is_new = any(usage.num_rows for usage in usages)
        if is_new or name not in done:
            before = done.get(name, {}) if (name, work, sharded) in _BUILDING else {}
            done[name] = _together(before, usages)
            write_bytes(book, json.dumps({"settings": settings, "phases": done}, indent=1).encode())
    layout, synthetic = run.layout, run.synthetic
    return {
        "num_images": synthetic.num_images,
        "num_crops": synthetic.num_crops,
        "num_shards": run.num_shards,
        "num_workers": run.num_workers,
        "phases": done,
        **sizes.store_bytes(layout),
        "store_bytes": measure.folder_bytes(layout.root),
        "view_bytes": measure.folder_bytes(layout.view_cache()),
        **worker.run(layout, phases.CALIBRATION),
        "fetch_rate_cold": done["fetch_cold"]["rate"],
        "fetch_rate_warm": done["fetch_warm"]["rate"],
        "machine": measure.machine(),
    }


def _together(before: Json, usages: list[Usage]) -> Json:
    """Figures of a phase, with those of the runs that were stopped before it was complete."""
    num_rows = sum(usage.num_rows for usage in usages) + before.get("num_rows", 0)
    seconds = max(usage.seconds for usage in usages) + before.get("seconds", 0.0)
    return {
        "seconds": seconds,
        "num_rows": num_rows,
        "crops_per_second": num_rows / seconds,
        "peak_mb": max(before.get("peak_mb", 0.0), *(usage.peak_mb for usage in usages)),
        "num_processes": len(usages),
        "generate_seconds": sum(usage.generate_seconds for usage in usages)
        + before.get("generate_seconds", 0.0),
        "rate": max(usage.rate for usage in usages),
    }


def tables(found: Json) -> str:
    """What is printed for people."""
    head = ("phase", "seconds", "Mcrops/s", "MB a process", "processes")
    rows = [
        (
            name,
            f"{each['seconds']:.1f}",
            report.number(each["crops_per_second"] / 1e6),
            f"{each['peak_mb']:.0f}",
            str(each["num_processes"]),
        )
        for name, each in found["phases"].items()
    ]
    figures = [
        ("store, GB", f"{found['store_bytes'] / 1e9:.3f}"),
        ("view, GB", f"{found['view_bytes'] / 1e9:.3f}"),
        ("bytes a crop for training", report.number(found["bytes_per_crop"])),
        ("of these, labels", report.number(found["label_bytes_per_crop"])),
        ("open, seconds", report.number(found["open_seconds"])),
        ("private memory after 1,000 gathers, MB", report.number(found["worker_mb"])),
        ("map it in a loader worker, seconds", report.number(found["map_seconds"])),
        ("private memory of that worker, MB", report.number(found["worker_map_mb"])),
        ("random fetch, warm, images/s", report.number(found["fetch_rate_warm"])),
        ("random fetch, cold, images/s", report.number(found["fetch_rate_cold"])),
        ("making predictions, seconds", f"{found['phases']['labels']['generate_seconds']:.1f}"),
    ]
    where = (
        f"{found['num_images']:,} images x {found['num_crops']} crops in "
        f"{found['num_shards']} shards"
    )
    parts = [where, report.table(head, rows), report.table(("figure", "measured"), figures)]
    return "\n\n".join(parts)

"""Fresh processes that open a training view and gather batches, as training does.

    python -m benchmarks.worker ROOT [--calibration NAME]
    python -m benchmarks.worker ROOT --folder FOLDER

print JSON. The first finds the view of a store by its digests and opens it, as a training does
once. The second maps the view's folder alone, as each of its loader workers does. Both then gather
1,000 batches and say how much private memory that took, lazy imports of libraries included.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fetching import BATCH, CROPS_AN_IMAGE
from benchmarks.measure import private_dirty_mb
from benchmarks.peers.ours import plan
from store.layout import Layout
from store.view.reader import TrainingView

_GATHERS = 1000
_REPOSITORY = Path(__file__).resolve().parents[1]


def run(layout: Layout, calibration: str | None = None) -> dict[str, float]:
    """Figures of fresh processes on the view of a store; the view must have been built."""
    named = ("--calibration", calibration) if calibration else ()
    opened = _fresh(layout, *named)
    mapped = _fresh(layout, "--folder", opened.pop("folder"))
    return {
        "open_seconds": opened["seconds"],
        "worker_mb": opened["private_mb"],
        "map_seconds": mapped["seconds"],
        "worker_map_mb": mapped["private_mb"],
    }


def _fresh(layout: Layout, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.worker", str(layout.root.resolve()), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY)}
    done = subprocess.run(
        command, cwd=_REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def figures(open_view: Callable[[], TrainingView]) -> dict[str, Any]:
    """Open a view and gather; for a process that has done nothing else."""
    before, began = private_dirty_mb(), time.perf_counter()
    view = open_view()
    seconds = time.perf_counter() - began
    _gather(view)
    mb = private_dirty_mb() - before
    return {"seconds": seconds, "private_mb": mb, "folder": str(view.folder)}


def _gather(view: TrainingView) -> None:
    rng = np.random.default_rng(0)
    size, m = min(BATCH, view.num_images), min(CROPS_AN_IMAGE, view.num_crops)
    for number in range(_GATHERS):
        rows = rng.integers(0, view.num_images, size)
        view.gather(rows, view.draw(rows, number * m, m, seed=0))


def main() -> None:
    """Print the figures of the store named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--calibration")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()

    def open_view() -> TrainingView:
        if given.folder is not None:
            return TrainingView(given.folder)
        return plan(Layout.beside(given.root), given.calibration).open()

    print(json.dumps(figures(open_view)))


if __name__ == "__main__":
    main()

"""Crops a second of the stage sample, on one core, publishing included."""

from pathlib import Path

import numpy as np

from benchmarks import build
from benchmarks.measure import best_rates
from benchmarks.synthetic import Synthetic
from stages.sample import run as sample
from stages.sample.config import Config
from stages.shared.contract import NoProgress
from store.layout import Layout
from store.parts import PartWriter

_NUM_IMAGES = 5000


def rates(scratch: Path, num_crops: int, rounds: int) -> dict[str, float]:
    """Of ImageNet's boxes and flips, ``num_crops`` an image."""
    layout = Layout.beside(scratch / "labels")
    table = Synthetic(_NUM_IMAGES, num_crops).table()
    build.write_images(layout, table)
    config = Config(num_crops=num_crops)
    inputs = sample.Inputs(0, table)

    def draw() -> float:
        output = PartWriter(layout, sample.ARTIFACT, "part-00000", "sample", "0" * 64)
        sample.run(config, inputs, output, NoProgress())
        return float(np.prod((_NUM_IMAGES, num_crops)))

    return best_rates({"sample_rate": draw}, rounds)

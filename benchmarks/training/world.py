"""A small data set on disk: JPEG files like photographs, a label store, FKD's files beside it.

Shapes: N images, M crops an image, H and W an image's sides.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from benchmarks import build
from benchmarks.arrays import Labels
from benchmarks.peers import reference
from benchmarks.peers.ours import plan
from benchmarks.sizes import read_stored
from benchmarks.synthetic import Synthetic
from stages.compress.config import Config as CompressConfig
from store.images import ImageTable
from store.layout import Layout
from store.view.reader import TrainingView

HEIGHT, WIDTH = 375, 500
_QUALITY = 90
_NOISE = 20.0
"""Deviation of a pixel's noise in levels: with it a file has ImageNet's 110 KB."""


@dataclass(frozen=True, slots=True)
class World:
    """The same images and the same labels in both layouts."""

    folder: Path
    labels: Labels
    """What the store gives back, and what FKD's files hold."""

    @property
    def images(self) -> Path:
        """Folder that the paths of the table are below."""
        return self.folder / "images"

    @property
    def fkd_labels(self) -> Path:
        """Folder of FKD's files."""
        return self.folder / "fkd"

    def open_view(self) -> TrainingView:
        """What training reads."""
        return plan(Layout.beside(self.folder / "labels")).open()


def make(folder: Path, num_images: int, num_crops: int, seed: int = 0) -> World:
    """Write all of it below ``folder``; boxes are those that stage sample draws."""
    synthetic = Synthetic(num_images, num_crops, seed=seed)
    table = _write_images(folder / "images", synthetic.table(), seed)
    boxes, flips = synthetic.crops(table)
    ranked, probs = synthetic.ranked(0, num_images)
    labels = Labels(table, boxes, flips, ranked.topk_class.astype(np.int32), probs)
    layout = Layout.beside(folder / "labels")
    build.write_store(layout, labels, ranked, CompressConfig())
    stored = read_stored(layout, labels)
    world = World(folder, stored)
    reference.write(world.fkd_labels, stored)
    return world


def photograph(rng: np.random.Generator) -> NDArray[np.uint8]:
    """(H, W, 3) smooth fields of several scales, with noise: as hard to decode as a photograph."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for cells, contrast in ((3, 60.0), (10, 25.0), (40, 12.0)):
        coarse = rng.normal(0, contrast, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            field = Image.fromarray(coarse[..., channel])
            field = field.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(field)
    pixels += rng.normal(0, _NOISE, (HEIGHT, WIDTH, 1))
    photo: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return photo


def _write_images(folder: Path, table: ImageTable, seed: int) -> ImageTable:
    """Write the files of a table; returns it with their sizes and hashes."""
    hashes = []
    for number, path in enumerate(table.paths):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = photograph(np.random.default_rng([seed, number]))
        Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
        hashes.append(xxhash.xxh3_128_hexdigest(file.read_bytes()))
    return ImageTable(
        paths=table.paths,
        class_ids=table.class_ids,
        heights=np.full(len(table), HEIGHT, np.int32),
        widths=np.full(len(table), WIDTH, np.int32),
        content_hashes=np.array(hashes, dtype=object),
        class_names=table.class_names,
    )

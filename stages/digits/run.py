"""Write the cluttered digits as class folders, whole or not at all."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.digits import core
from stages.digits.config import Config
from stages.shared.contract import Json, Progress, Report
from store.atomic import replace_folder

REVISION = 1
"""Raised when the same parameters would give other images."""


def run(config: Config, output: Path, progress: Progress) -> Report:
    """Make `output`/{train,val,test}/<class>/<name>.jpg or .png; numbers count each split's images.

    The folder appears under its name only when complete, replacing an older one; bytes depend on
    the config and the library versions alone.
    """
    with replace_folder(output) as partial:
        counts = _write_splits(config, partial, progress)
    numbers: dict[str, Json] = {name: counts[name] for name in counts}
    listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return Report(numbers, (f"images in {output}: {listed}",))


def _write_splits(config: Config, root: Path, progress: Progress) -> dict[str, int]:
    handwriting = core.load_handwriting()
    sizes = (config.num_train, config.num_val, config.num_test)
    renders = dict(
        zip(
            core.SPLITS,
            (config.renders_train, config.renders_val, config.renders_test),
            strict=True,
        )
    )
    pools = core.split(handwriting.classes, sizes, config.seed)
    total = sum(len(pool) * renders[name] for name, pool in pools.items())
    progress.start("digits", total, "images")
    return {
        name: _write_split(config, handwriting, pool, renders[name], root / name, progress)
        for name, pool in pools.items()
    }


def _write_split(
    config: Config,
    handwriting: core.Handwriting,
    pool: NDArray[np.int64],
    num_renders: int,
    folder: Path,
    progress: Progress,
) -> int:
    """Write every render of the digits in `pool` and return how many images that is."""
    for class_id in np.unique(handwriting.classes[pool]):
        (folder / str(class_id)).mkdir(parents=True)
    for digit in map(int, pool):
        class_folder = folder / str(handwriting.classes[digit])
        for render in range(num_renders):
            number = core.image_number(digit, render)
            pixels = core.render(handwriting, digit, number, pool, config)
            _write_image(pixels, class_folder / f"digit{digit:04d}_{render}", number, config)
        progress.advance(num_renders)
    return len(pool) * num_renders


def _write_image(pixels: NDArray[np.uint8], stem: Path, number: int, config: Config) -> None:
    image = Image.fromarray(pixels)
    if number % config.png_every == 0:
        image.save(stem.with_suffix(".png"), format="PNG")
    else:
        image.save(stem.with_suffix(".jpg"), format="JPEG", quality=config.jpeg_quality)

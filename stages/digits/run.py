"""Write the cluttered digits as class folders, whole or not at all."""

import csv
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

WRONG = "wrong_labels"
"""Name of the list of wrong labels, and of their count among the numbers."""

Wrong = dict[tuple[int, int], int]
"""Wrong classes by (digit, render), of training digits alone: no other split has them."""


def run(config: Config, output: Path, progress: Progress) -> Report:
    """Make `output`/{train,val,test}/<class>/<name>.jpg or .png; numbers count each split's images.

    Where labels are to be wrong, ``wrong_labels.csv`` beside them lists these training images:
    their path below ``train`` and the true class.

    The folder appears under its name only when complete, replacing an older one; bytes depend on
    the config and the library versions alone.
    """
    with replace_folder(output) as partial:
        counts = _write_splits(config, partial, progress)
    numbers: dict[str, Json] = {name: counts[name] for name in counts}
    listed = ", ".join(f"{count:,} {name}" for name, count in counts.items() if name in core.SPLITS)
    lines = [f"images in {output}: {listed}"]
    if WRONG in counts:
        lines.append(f"{counts[WRONG]:,} training images lie under a wrong class")
    return Report(numbers, tuple(lines))


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
    wrong: Wrong = {}
    if config.wrong_labels > 0:
        wrong = core.wrong_classes(
            handwriting.classes, pools["train"], renders["train"], config.wrong_labels, config.seed
        )
        _write_wrong(root / f"{WRONG}.csv", handwriting, wrong, config)
    counts = {
        name: _write_split(
            config,
            handwriting,
            pool,
            renders[name],
            root / name,
            wrong,
            progress,
        )
        for name, pool in pools.items()
    }
    return counts | ({WRONG: len(wrong)} if config.wrong_labels > 0 else {})


def _write_split(
    config: Config,
    handwriting: core.Handwriting,
    pool: NDArray[np.int64],
    num_renders: int,
    folder: Path,
    wrong: Wrong,
    progress: Progress,
) -> int:
    """Write every render of the digits in `pool` and return how many images that is."""
    for class_id in np.unique(handwriting.classes[pool]):
        (folder / str(class_id)).mkdir(parents=True)
    for digit in map(int, pool):
        for render in range(num_renders):
            number = core.image_number(digit, render)
            pixels = core.render(handwriting, digit, number, pool, config)
            class_id = wrong.get((digit, render), int(handwriting.classes[digit]))
            _write_image(pixels, folder / _name(class_id, digit, render, config), config)
        progress.advance(num_renders)
    return len(pool) * num_renders


def _write_wrong(path: Path, handwriting: core.Handwriting, wrong: Wrong, config: Config) -> None:
    rows = sorted(
        (_name(class_id, digit, render, config), str(handwriting.classes[digit]))
        for (digit, render), class_id in wrong.items()
    )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "true_class"])
        writer.writerows(rows)


def _name(class_id: int, digit: int, render: int, config: Config) -> str:
    """Path of an image below its split's folder."""
    is_png = core.image_number(digit, render) % config.png_every == 0
    return f"{class_id}/digit{digit:04d}_{render}.{'png' if is_png else 'jpg'}"


def _write_image(pixels: NDArray[np.uint8], path: Path, config: Config) -> None:
    image = Image.fromarray(pixels)
    if path.suffix == ".png":
        image.save(path, format="PNG")
    else:
        image.save(path, format="JPEG", quality=config.jpeg_quality)

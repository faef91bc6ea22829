"""Crops a second of the stages compress and calibrate, on one core, publishing included."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import build, predictions
from benchmarks.arrays import Labels, Ranked
from benchmarks.measure import best_rates
from benchmarks.sizes import soft_entry
from stages.calibrate import core, whole_store
from stages.calibrate import fit as fitting
from stages.calibrate import run as calibrate
from stages.calibrate.config import Config as CalibrateConfig
from stages.calibrate.crops import Crops
from stages.compress.config import Config as CompressConfig
from stages.compress.inputs import open_inputs
from stages.shared.contract import NoProgress, Source
from store import images, tables
from store.layout import Layout
from store.overlay import Overlay
from store.schema import CALIBRATED
from store.soft_part import Scalars, SoftPart

FERKD = calibrate.Recipe(
    "ferkd", CalibrateConfig.model_validate({"f": [{"step": "ferkd"}]}).root["f"]
)
"""FerKD with its own preset."""


def compress_rates(
    layout: Layout,
    labels: Labels,
    ranked: Ranked,
    config: CompressConfig,
    scratch: Path,
    rounds: int,
) -> dict[str, float]:
    """Crops a second from arrays, and from predictions in Zarr, to a published part."""
    arrays = build.inputs_of(layout, labels, ranked)
    zarr = Layout.beside(scratch / "zarr" / "labels")
    build.write_images(zarr, labels.table)
    build.write_crops(zarr, labels)
    predictions.write_predictions(zarr, labels, ranked)
    read = open_inputs(config, Source(zarr, 1, scratch / "images"))(0)
    from_arrays = Layout.beside(scratch / "arrays" / "labels")

    def compress_arrays() -> float:
        build.run_compress(config, arrays, from_arrays)
        return labels.num_rows

    def compress_zarr() -> float:
        build.run_compress(config, read, zarr)
        return labels.num_rows

    tasks: dict[str, Callable[[], float]] = {
        "compress_rate": compress_arrays,
        "compress_from_zarr_rate": compress_zarr,
    }
    return best_rates(tasks, rounds)


def calibrate_rates(layout: Layout, scratch: Path, rounds: int) -> dict[str, float]:
    """Crops a second of a calibration: the stage on a shard, and its three parts alone."""
    soft = soft_entry(layout)
    part = SoftPart(layout, soft)
    ons = fitting.needed_probabilities(FERKD.steps)

    def look() -> fitting.Fit:
        counted = whole_store.reliability(layout, [soft], ons, NoProgress())
        proof = fitting.Evidence(soft.attribute("precision"), part.spec.num_classes, counted)
        return fitting.fit(FERKD.name, FERKD.steps, proof)

    fitted = look()
    inputs = calibrate.Inputs(layout, soft, fitted, images.load(layout))
    target = Layout.beside(scratch / "calibrated" / "labels")
    output = build.writer(
        target, FERKD.artifact, soft.stem, "calibrate", calibrate.REVISION, FERKD.params(), {}
    )
    scalars = part.scalars()
    classes = part.spec.num_classes
    crops = Crops(scalars.image_ids, scalars.targets, scalars.max_prob, classes)
    overlay = core.apply(FERKD.steps, fitted, crops).overlay

    def whole() -> float:
        calibrate.run(FERKD, inputs, output, NoProgress())
        return soft.rows

    def first_phase() -> float:
        look()
        return soft.rows

    def read() -> float:
        return len(part.scalars().targets)

    def compute() -> float:
        core.apply(FERKD.steps, fitted, crops)
        return soft.rows

    def write() -> float:
        table = overlay_table(scalars, overlay, part.num_crops)
        output.publish_table(table, {}, rows_per_image=part.num_crops)
        return soft.rows

    tasks: dict[str, Callable[[], float]] = {
        "calibrate_rate": whole,
        "calibrate_fit_rate": first_phase,
        "calibrate_read_rate": read,
        "calibrate_compute_rate": compute,
        "calibrate_write_rate": write,
    }
    return best_rates(tasks, rounds)


def overlay_table(scalars: Scalars, overlay: Overlay, num_crops: int) -> object:
    """The table that stage calibrate publishes."""
    num_images = len(scalars.targets) // num_crops
    return tables.make_table(
        CALIBRATED,
        {
            "image_id": scalars.image_ids,
            "crop": np.tile(np.arange(num_crops, dtype=np.int16), num_images),
            "action": overlay.action,
            "teacher_weight": overlay.teacher_weight,
            "target_weight": overlay.target_weight,
        },
    )

"""`ferkd-pipeline store stats`: FerKD's Table 1, FKD's Table 2 and more, of this store."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.commands.store.info import describe_label
from ferkd_pipeline.commands.store.shared import (
    as_options,
    calibrations_option,
    percent,
    root_of,
    root_option,
    show_lines,
    show_table,
)
from store.units import readable_bytes

if TYPE_CHECKING:
    from store.inspection.statistics_tables import ClassFigures, Statistics

EPILOG = """
\b
Examples:
  ferkd-pipeline store stats
  ferkd-pipeline store stats --calibration ferkd --per-class
  ferkd-pipeline store stats --json > stats.json     every figure
"""
_NUM_WORST = 10


@click.command(epilog=EPILOG, short_help="Count what labels say and what they take.")
@root_option
@calibrations_option
@click.option("--per-class", is_flag=True, help="Show all classes, not only the ten worst.")
@params_option
@json_option
def stats(
    root: Path | None,
    calibrations: tuple[str, ...],
    per_class: bool,
    params_path: Path,
    as_json: bool,
) -> None:
    """Read all labels once and show: how sure the teacher is (FerKD, Table 1), how often it is
    right, bytes by label kind (FKD, Table 2) beside what this store takes, figures by class, and
    what calibrations do.
    """
    from ferkd_pipeline import progress
    from store.inspection.statistics import statistics

    folder = root_of(root, params_path)
    with as_options("calibration"), progress.watched() as watch:
        found = statistics(folder, calibrations, watch)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    show_lines(list(_head(found)))
    _show_ranges(found)
    _show_teacher(found)
    _show_sizes(found)
    for name in found.calibrations:
        _show_calibration(found, name)
    _show_classes(found, per_class)


def _head(found: Statistics) -> Iterable[str]:
    yield (
        f"{found.root}: {found.num_images:,} images, {found.num_crops:,} crops, "
        f"{found.num_shards:,} shards"
    )
    yield describe_label(dataclasses.asdict(found.label))
    if found.num_rejected:
        yield f"{found.num_rejected:,} rejected crops are left out below"
    yield from (f"Not defined: {reason}" for reason in found.undefined)


def _show_ranges(found: Statistics) -> None:
    rows = []
    for each in found.ranges:
        end = "]" if each.high == 1 else ")"
        span = f"[{each.low:g}, {each.high:g}{end}"
        rows.append((span, f"{each.num_crops:,}", percent(each.share), percent(each.aggregated)))
    if rows:
        header = ("max. probability", "crops", "ratio %", "aggregated %")
        show_table("How sure the teacher is (FerKD, Table 1)", header, rows)


def _show_teacher(found: Statistics) -> None:
    rows = [
        (
            each.name.replace("_", " "),
            f"{each.num_crops:,}",
            percent(each.share),
            percent(each.accuracy),
            _number(each.mean_max_prob),
            _number(each.mean_target_prob),
            _number(each.mean_entropy),
        )
        for each in found.teacher
    ]
    if rows:
        show_table(
            "The teacher on these crops, all and by FerKD's groups",
            ("crops", "number", "%", "right %", "max. prob.", "target prob.", "entropy"),
            rows,
            (
                "Maximum probability: extreme hard [0, .05), moderate hard [.05, .3],",
                "hard positive (.3, .95), easy positive [.95, 1].",
                "Means; entropy in nats, of the label as stored.",
            ),
        )


def _show_sizes(found: Statistics) -> None:
    crops = max(1, found.num_crops)
    rows = [
        (each.kind, f"{each.bytes_per_crop:,}", readable_bytes(each.num_bytes))
        for each in found.reference
    ]
    show_table(
        "Bytes by label kind in the reference's layout (FKD, Table 2)",
        ("kind", "bytes a crop", "these crops"),
        rows,
        ("(4 of the box + 1 of the flip + those of the label) x 4 bytes; this store's classes.",),
    )
    by_use: dict[str, int] = {}
    for column in found.columns:
        by_use[column.use] = by_use.get(column.use, 0) + column.num_bytes
    training = sum(size for use, size in by_use.items() if use != "calibration")
    calibration = by_use.get("calibration", 0)
    order = ("box", "flip", "operations", "mixing", "ids", "classes", "probabilities", "overhead")
    measured = [(use, *_size(by_use[use], crops)) for use in order if use in by_use] + [
        ("training, together", *_size(training, crops)),
        ("calibration (max_prob, target_prob)", *_size(calibration, crops)),
        ("all", *_size(training + calibration, crops)),
    ]
    less = found.reference_bytes_per_crop * crops / max(1, training)
    show_table(
        "Bytes of this store, measured",
        ("what", "bytes a crop", "these crops"),
        measured,
        (
            f"The reference's {found.reference_bytes_per_crop:,} bytes for the same kind are "
            f"{less:.1f} times what training reads here.",
            "Compressed. ids: image, crop, target. Where max_prob is prob_0, it is counted once,",
            "among the probabilities.",
        ),
    )


def _size(num_bytes: int, num_crops: int) -> tuple[str, str]:
    return f"{num_bytes / num_crops:.2f}", readable_bytes(num_bytes)


def _show_calibration(found: Statistics, name: str) -> None:
    total = max(1, found.num_images)
    rows = [
        (
            each.action,
            f"{each.num_crops:,}",
            percent(each.share),
            percent(each.images_any / total),
            percent(each.images_all / total),
        )
        for each in found.calibrations[name]
    ]
    show_table(
        f"What calibration {name} does",
        ("action", "crops", "% of crops", "images, some %", "images, all %"),
        rows,
        ("Some: at least one crop of the image. All: every crop of it.",),
    )


def _show_classes(found: Statistics, per_class: bool) -> None:
    listed = found.classes
    title = f"All {len(listed):,} classes"
    if not per_class and len(listed) > _NUM_WORST:
        known = [each for each in listed if each.accuracy is not None]
        listed = sorted(known, key=lambda each: (each.accuracy, each.class_id))[:_NUM_WORST]
        title = f"The {len(listed)} classes that the teacher knows least, of {len(found.classes):,}"
    if not listed:
        return
    header = ("id", "class", "images", "crops", "right %", "max.", "target", "none right %")
    rows = [(*_class_names(each), *_class_cells(each)) for each in listed]
    notes = ["max., target: mean probabilities. none right: images without one right crop."]
    if len(found.classes) > len(listed):
        notes.append("--per-class shows all.")
    show_table(title, header, rows, notes, num_left=2)
    for name in found.calibrations:
        cells = [
            (*_class_names(each), *(percent(each.actions[name][a]) for a in _SHOWN_ACTIONS))
            for each in listed
        ]
        show_table(
            f"What calibration {name} does to them, % of crops",
            ("id", "class", "dropped", "softened", "revised", "ground truth"),
            cells,
            num_left=2,
        )


_SHOWN_ACTIONS = ("drop", "soften", "revise", "truth")


def _class_names(each: ClassFigures) -> tuple[str, str]:
    return str(each.class_id), each.name


def _class_cells(each: ClassFigures) -> tuple[str, ...]:
    return (
        f"{each.num_images:,}",
        f"{each.num_crops:,}",
        percent(each.accuracy),
        _number(each.mean_max_prob),
        _number(each.mean_target_prob),
        percent(each.share_no_crop_right),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

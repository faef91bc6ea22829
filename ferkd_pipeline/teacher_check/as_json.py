"""Checks as plain JSON, for scripts."""

import dataclasses
from typing import Any

from stages.infer.examine.answers import Answers
from stages.infer.examine.projections import CheckedProjection
from stages.infer.examine.run import Checked


def to_json(found: Checked | CheckedProjection) -> dict[str, Any]:
    """Everything that is shown; shares, not percents."""
    images, panel = found.images, found.panel
    return {
        "ok": not found.problems,
        "set": images.name,
        "folder": str(images.folder),
        "num_images": len(images.paths),
        "device": panel.device.type,
        "precision": panel.config.precision,
        **(_projection(found) if isinstance(found, CheckedProjection) else _classes(found)),
        "findings": [dataclasses.asdict(each) for each in found.findings],
    }


def _projection(found: CheckedProjection) -> dict[str, Any]:
    return {
        "outputs": "projection",
        "num_outputs": found.panel.num_outputs,
        "highest": found.highest,
        "spread": found.spread,
    }


def _classes(found: Checked) -> dict[str, Any]:
    asked, crops = found.asked, found.crops
    return {
        "outputs": "classes",
        "num_classes": len(found.class_names),
        "num_unreadable": len(asked.failed),
        "teachers": [
            {"key": teacher.key, "name": teacher.name, "share": teacher.share, **_figures(answers)}
            for teacher, answers in zip(found.panel.teachers, asked.each, strict=True)
        ],
        "average": {"of": found.panel.config.average, **_figures(asked.average)},
        "random_crops": None if crops is None else _figures(crops.average),
    }


def _figures(answers: Answers) -> dict[str, Any]:
    return {
        "num": len(answers.classes),
        "top1": answers.top1,
        "top5": answers.top5,
        "mean_max_prob": answers.mean_max_prob,
        "share_at_0.95": answers.share_sure,
        "num_not_finite": answers.num_not_finite,
    }

"""Previews as plain JSON, for scripts."""

import math
from collections.abc import Sequence
from typing import Any

from ferkd_pipeline.preview import bins
from ferkd_pipeline.preview.words import on_of
from stages.calibrate.reliability import Bin
from stages.calibrate.survey import Preview
from stages.calibrate.suspects import Suspects
from stages.calibrate.told import intervals
from store.images import ImageTable


def to_json(previews: Sequence[Preview]) -> dict[str, Any]:
    """Return everything that is shown, and all suspected images among those looked at."""
    first = previews[0]
    return {
        "root": str(first.inputs.layout.root),
        "num_crops": first.num_crops,
        "num_all_crops": first.num_all_crops,
        "is_sample": first.is_sample,
        "calibrations": {seen.recipe.name: _one(seen) for seen in previews},
    }


def _one(seen: Preview) -> dict[str, Any]:
    counts, on = seen.counts, on_of(seen)
    limits = next((each.thresholds for each in seen.fit.steps if each.thresholds), None)
    total, images = max(1, sum(counts.actions.values())), max(1, counts.num_images)
    return {
        **seen.recipe.params(),
        "fit": [each.to_json() for each in seen.fit.steps],
        "intervals": None if limits is None else intervals(limits),
        "num_images": counts.num_images,
        "actions": {
            name: {
                "crops": num,
                "share": num / total,
                "images": counts.images[name],
                "image_share": counts.images[name] / images,
            }
            for name, num in counts.actions.items()
        },
        "groups": counts.groups,
        "restored_images": counts.restored_images,
        "restored_crops": counts.restored_crops,
        "taught_images": counts.taught_images,
        "suspects": None if seen.suspects is None else _suspects(seen.suspects, seen.inputs.images),
        "warnings": [*counts.warnings()],
        "entropy": {
            "before": seen.entropy_before,
            "after": seen.entropy_after,
            "classes_before": math.exp(seen.entropy_before),
            "classes_after": math.exp(seen.entropy_after),
            "crops": seen.num_entropies,
        },
        "reliability": {
            "on": on,
            "bins": [
                {"training": pair.training.to_json(), "validation": _bin(pair.validation)}
                for pair in bins.pairs(seen, on)
            ],
        },
    }


def _bin(each: Bin | None) -> dict[str, Any] | None:
    return None if each is None else {**each.to_json()}


def _suspects(found: Suspects, images: ImageTable) -> list[dict[str, Any]]:
    names = images.class_names
    return [
        {
            "path": str(images.paths[found.image_ids[row]]),
            "class": names[int(found.targets[row])],
            "teacher_class": names[int(found.teacher_classes[row])],
            "agreement": float(found.agreement[row]),
            "max_prob": float(found.max_prob[row]),
            "target_prob": float(found.target_prob[row]),
        }
        for row in range(len(found))
    ]

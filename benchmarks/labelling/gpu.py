"""The whole stage on a GPU, beside the bare forward of its teacher on data that lies there."""

import os
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from benchmarks import build
from benchmarks.arrays import Labels
from stages.infer.config import Config
from stages.infer.inputs import open_inputs
from stages.infer.measure import measure
from stages.shared.contract import Source
from store.layout import Layout

TEACHERS = {"resnet50": "resnet50", "vit_l16": "vit_large_patch16_224"}
NO_GPU = "no GPU here: gpu_forward_share is left out"


def shares(
    layout: Layout,
    images_folder: Path,
    labels: Labels,
    rounds: int,
    teachers: dict[str, str] = TEACHERS,
    *,
    seconds: float = 20.0,
    **changes: Any,
) -> dict[str, float]:
    """Share of the bare forward's speed that the stage reaches, the best of ``rounds``.

    Random weights: what a teacher knows does not change its speed.
    """
    build.write_images(layout, labels.table)
    build.write_crops(layout, labels)
    found: dict[str, float] = {}
    for short, name in teachers.items():
        weights = layout.root.parent / f"{short}.safetensors"
        module = timm.create_model(name, num_classes=labels.table.num_classes)
        save_file(module.state_dict(), weights)
        config = Config.model_validate(
            {
                "teacher": {"name": name, "weights": str(weights)},
                "precision": "bf16",
                "num_workers": len(os.sched_getaffinity(0)),
                **changes,
            }
        )
        inputs = open_inputs(config, Source(layout, 1, images_folder))(0)
        measured = [measure(config, inputs, seconds) for _ in range(rounds)]
        best = max(measured, key=lambda each: each.share_of_bare)
        found[f"gpu_forward_share_{short}"] = best.share_of_bare
        found[f"gpu_crops_per_second_{short}"] = best.crops_per_second
        found[f"gpu_bare_crops_per_second_{short}"] = best.bare_crops_per_second
        for part, spent in best.seconds.items():
            key = f"gpu_time_{short}_{part.replace(' ', '_')}"
            found[key] = spent / best.wall_seconds
        del inputs
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    found["gpu_forward_share"] = min(found[f"gpu_forward_share_{short}"] for short in teachers)
    return found

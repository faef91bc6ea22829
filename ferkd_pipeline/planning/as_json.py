"""A plan as plain JSON, for scripts."""

import dataclasses
from typing import Any

from ferkd_pipeline.planning.estimate import Plan


def to_json(plan: Plan) -> dict[str, Any]:
    """Everything that is shown; hours, seconds and bytes as plain numbers."""
    sample = plan.sample
    infer = dataclasses.asdict(sample.infer)
    return {
        "num_images": len(sample.table),
        "num_classes": sample.table.num_classes,
        "num_crops": plan.num_crops,
        "num_shards": plan.num_shards,
        "num_gpus": plan.num_gpus,
        "stages": [dataclasses.asdict(line) for line in plan.lines],
        "gpu_hours": plan.hours("GPU"),
        "cpu_hours": plan.hours("CPU"),
        "num_bytes": plan.num_bytes,
        "infer": {
            **infer,
            "crops_per_second": sample.infer.crops_per_second,
            "share_of_bare": sample.infer.share_of_bare,
            "batch_size": sample.scale.batch_size,
            "num_crops_an_image": sample.scale.num_crops,
            "shard_seconds": plan.shard_seconds,
            "block_seconds": plan.block_seconds,
            "lost_seconds": plan.lost_seconds,
            "wall_hours": plan.infer_wall_hours,
        },
        "train": None if sample.step is None else dataclasses.asdict(sample.step),
        "disks": [
            {**dataclasses.asdict(disk), "folder": str(disk.folder), "has_room": disk.has_room}
            for disk in plan.disks
        ],
        "not_measured": list(sample.left_out),
    }

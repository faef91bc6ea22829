"""A plan as a table and sentences."""

from ferkd_pipeline.pages.table import Table
from ferkd_pipeline.planning.estimate import FEW_CROPS, Line, Plan
from store.units import readable_bytes


def head(plan: Plan) -> str:
    """What is planned."""
    table = plan.sample.table
    return (
        f"{len(table):,} images of {table.num_classes:,} classes, {plan.num_crops_an_image:,} "
        f"crops of each: {plan.num_crops:,} crops in {_shards(plan.num_shards)}"
    )


def stages(plan: Plan) -> Table:
    """What each stage takes, and all together."""
    rows = [(_name(line), f"{line.num_crops:,}", *_time(line), _size(line)) for line in plan.lines]
    for unit in ("CPU", "GPU"):
        if hours := plan.hours(unit):
            size = readable_bytes(plan.num_bytes) if unit == "CPU" else ""
            rows.append(("together" if unit == "CPU" else "", "", duration(hours), unit, size))
    notes = ["Time: of one process on the CPU, or of one GPU."]
    if any(line.is_upper_bound for line in plan.lines):
        notes.append(
            f"<: at most that; measured on fewer than {FEW_CROPS:,} crops, which take more each."
        )
    if plan.sample.step is not None:
        notes.append("train: forward and backward alone; reading images comes on top.")
    header = ("stage", "crops", "time", "on", "disk")
    return Table("What the stages will take, about", header, tuple(rows), tuple(notes))


def lines(plan: Plan) -> list[str]:
    """What was measured, and what it means for shards, kills and disks."""
    return [*_of_infer(plan), *_of_train(plan), *_of_disks(plan), *_left_out(plan)]


def _of_infer(plan: Plan) -> list[str]:
    found, scale = plan.sample.infer, plan.sample.scale
    told = [
        f"infer: {_rate(found.crops_per_second)} crops/s on {found.device}, the teacher's bare "
        f"forward {_rate(found.bare_crops_per_second)}; measured on {found.num_crops:,} crops of "
        f"{found.num_images:,} images.",
        f"A shard takes {duration(plan.shard_seconds / 3600)}; a kill loses "
        f"{duration(plan.lost_seconds / 3600)} at most.",
    ]
    if scale.num_crops < plan.num_crops_an_image:
        told.append(
            f"Such a slow teacher was measured in batches of {scale.batch_size} and on "
            f"{scale.num_crops} crops an image, to end in time."
        )
    if plan.num_gpus > 1:
        what = "processes" if found.device == "cpu" else "GPUs"
        told.append(
            f"With {plan.num_gpus} {what} infer takes {duration(plan.infer_wall_hours)}: each "
            "labels whole shards."
        )
    if plan.num_gpus > plan.num_shards:
        told.append(
            f"store.num_shards is {plan.num_shards}: {plan.num_gpus - plan.num_shards} of these "
            f"{plan.num_gpus} would have nothing to do; raise it before anything is made."
        )
    return told


def _of_train(plan: Plan) -> list[str]:
    step = plan.sample.step
    if step is None:
        return []
    return [
        f"train: {_rate(step.crops_per_second)} crops/s on {step.device}, in steps of "
        f"{step.batch_size:,} random crops. As many must be read and decoded for it."
    ]


def _of_disks(plan: Plan) -> list[str]:
    told = []
    for disk in plan.disks:
        there = f", {readable_bytes(disk.num_present)} of it there" if disk.num_present else ""
        told.append(
            f"{disk.folder}: {readable_bytes(disk.num_bytes)} needed{there}, "
            f"{readable_bytes(disk.num_free)} free."
        )
    return told


def _left_out(plan: Plan) -> list[str]:
    return [f"Not measured: {reason}" for reason in plan.sample.left_out]


def warnings(plan: Plan) -> list[str]:
    """What will not work."""
    return [
        f"{disk.folder} has room for {readable_bytes(disk.num_free)}, and "
        f"{readable_bytes(disk.num_bytes - disk.num_present)} are still to be written"
        for disk in plan.disks
        if not disk.has_room
    ]


def duration(hours: float) -> str:
    """Two or three digits are enough: 0.4 s, 12 s, 3.5 min, 45 min, 7.2 h, 310 h."""
    seconds = 3600 * hours
    if seconds < 0.1:
        return "0 s" if seconds == 0 else "<0.1 s"
    for unit, length in (("s", 1), ("min", 60)):
        value = seconds / length
        if value < 100:
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"


def _name(line: Line) -> str:
    return line.stage if line.name is None else f"{line.stage} {line.name}"


def _time(line: Line) -> tuple[str, str]:
    return ("< " if line.is_upper_bound else "") + duration(line.hours), line.unit


def _size(line: Line) -> str:
    if not line.num_bytes:
        return "-"
    return ("< " if line.is_upper_bound else "") + readable_bytes(line.num_bytes)


def _shards(num: int) -> str:
    return f"{num:,} {'shard' if num == 1 else 'shards'}"

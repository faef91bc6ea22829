"""What the stage infer reads: one shard's images and crops, and the teachers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from stages.infer import teachers
from stages.infer.config import Config
from stages.infer.core import Kept
from stages.infer.mixed import Mixed
from stages.infer.projection import KeptProjection
from stages.infer.teachers import Teacher
from stages.shared import devices
from stages.shared.contract import Json, Source, keyed_params
from store import entries, images, mixing, tables, upstream
from store.batch import RecordedOps
from store.entries import Entry
from store.errors import DataError, ParamsError
from store.images import ImageTable
from store.layout import Layout
from store.operations import count_of, from_table


@dataclass(frozen=True, slots=True)
class Inputs:
    """The teachers, and one shard of images and crops."""

    layout: Layout
    images_folder: Path
    first_image_id: int
    images: ImageTable
    crops: Entry
    teachers: tuple[Teacher, ...]
    """One, or those whose answers are averaged, in an order of their own."""
    taught_by: dict[str, Json]
    """Their weights, shares and pixels, for the key."""
    device: torch.device
    kept: Kept | KeptProjection
    device_kind: str
    """``cpu`` or ``cuda``, in the key: where this shard is computed, or was."""
    resize: Literal["auto", "cpu", "device"] = "auto"
    """As params.yaml has it."""
    is_compiled: bool = False
    everyone: ImageTable | None = None
    """All images of the store, where crops are mixed with them."""
    partners: str | None = None
    """Digest of the files that they are mixed with."""

    @property
    def on_device(self) -> bool:
        """Whether crops are cut out and resized where the teachers are."""
        return self.resize == "device" or (self.resize == "auto" and self.device_kind == "cuda")

    def lineage(self) -> dict[str, Json]:
        """Digests of images, crops and teachers, how pixels are made, and what is kept."""
        return {
            "images": self.images.digest(
                self.first_image_id, "paths", "class_ids", "content_hashes"
            ),
            "crops": self.crops.rows_digest,
            **({} if self.partners is None else {"partners": self.partners}),
            **self.taught_by,
            **self.kept.lineage(),
            "device": self.device_kind,
            **({"resize": "device"} if self.on_device else {}),
            **({"compile": True} if self.is_compiled else {}),
        }

    def read_crops(
        self,
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], RecordedOps | None, Mixed | None]:
        """Boxes (N, M, 4), flips (N, M), recorded operations (N, M, P) and recorded mixing.

        Raises:
            DataError: the file does not hold M rows of each of these images, or holds an operation
                or a mixing that this version does not know.
        """
        path = self.layout.table("crops", self.crops.stem)
        table = tables.read_table(path)
        num_crops = self.kept.num_crops
        ids = np.arange(self.first_image_id, self.first_image_id + len(self.images))
        if not np.array_equal(tables.column(table, "image_id"), np.repeat(ids, num_crops)):
            raise DataError(
                f"{path} does not hold {num_crops} crops of each image of "
                f"{self.layout.table('images', images.STEM)}; run `ferkd-pipeline stage sample`"
            )
        box = [tables.column(table, name) for name in ("top", "left", "height", "width")]
        shape: tuple[int, ...] = (len(self.images), num_crops)
        boxes = np.stack(box, axis=1).reshape(*shape, 4)
        flips, num_ops = tables.column(table, "flip").reshape(shape), count_of(self.crops)
        mixed = None
        if self.everyone is not None:
            mix = mixing.from_table(path, table, len(self.everyone)).reshape(*shape)
            stop = self.first_image_id + len(self.images)
            mixed = Mixed.of(mix, self.first_image_id, stop, self.everyone)
        if not num_ops:
            return boxes, flips, None, mixed
        ops = from_table(path, table, num_ops)
        shape = (*shape, num_ops)
        recorded = RecordedOps(ops.codes.reshape(shape), ops.levels.reshape(shape))
        return boxes, flips, recorded, mixed


def open_inputs(config: Config, source: Source) -> Callable[[int], Inputs]:
    """Load the image table and the teachers once; the result gives the inputs of a shard.

    Raises:
        DataError: an input is missing, does not fit, or a teacher has other classes.
        ParamsError: no such teacher, no such device, or a precision that it does not do.
    """
    device = devices.choose(config.device, "infer.device")
    table = images.load(source.layout)
    listed = source.layout.table("images", images.STEM)
    found = teachers.load(config, config.num_outputs or table.num_classes, table, listed)
    taught_by = teachers.lineage(config, found)
    for teacher in found:
        teacher.model.module.to(memory_format=torch.channels_last)
        teacher.model.module.to(device).eval()
        teacher.model.module.requires_grad_(False)
        if config.compile:
            teacher.model.module.compile(dynamic=False)

    def of_shard(shard: int) -> Inputs:
        start, stop = images.shard_bounds(len(table), source.num_shards, shard)
        own = table.slice(start, stop)
        crops = upstream.require_crops(source.layout, table, source.num_shards, shard)
        is_mixed, partners = mixing.has_mix(crops), None
        if is_mixed:
            partners = mixing.files_digest(table, mixing.partners_of(source.layout, crops))
        kept = _kept(config, int(crops.attribute("num_crops")), own.num_classes)
        here = Inputs(
            source.layout,
            source.images_folder,
            start,
            own,
            crops,
            found,
            taught_by,
            device,
            kept,
            device.type,
            config.resize,
            config.compile,
            table if is_mixed else None,
            partners,
        )
        there = _as_recorded(config, here) if config.device == "auto" else here
        _refuse_half_on_cpu(config, there)
        return there

    return of_shard


def _kept(config: Config, num_crops: int, num_classes: int) -> Kept | KeptProjection:
    if config.outputs == "projection":
        assert config.num_outputs is not None
        return KeptProjection(num_crops, config.num_outputs)
    return Kept.of(config, num_crops, num_classes)


def _refuse_half_on_cpu(config: Config, inputs: Inputs) -> None:
    """A shard that a GPU has made already stays readable on a machine without one."""
    if config.precision == "fp16" and inputs.device_kind == "cpu":
        raise ParamsError(
            "infer.precision is fp16, which needs a GPU; allowed on a CPU: float32, bf16"
        )


def _as_recorded(config: Config, here: Inputs) -> Inputs:
    """With ``device: auto``, a complete shard of another kind of device is as good as one of this.

    So a machine without a GPU can record, and train from, what machines with one have made.
    """
    entry = entries.find_entry(here.layout, "predictions", here.crops.stem)
    if entry is None:
        return here
    kind = str(entry.lineage.get("inputs", {}).get("device"))
    there = replace(here, device_kind=kind)
    asked = {"params": keyed_params(config), "inputs": there.lineage()}
    made = {name: entry.lineage.get(name) for name in asked}
    whole = entries.why_incomplete(here.layout, "predictions", entry.stem, entry.key) is None
    return there if made == asked and whole else here

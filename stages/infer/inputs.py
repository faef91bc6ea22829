"""What the stage infer reads: one shard's images and crops, and the teacher."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stages.infer.config import Config
from stages.infer.core import Kept
from stages.shared import devices
from stages.shared.contract import Json, Source, keyed_params
from stages.shared.model_card import find_card
from stages.shared.models import Model, build
from store import entries, images, tables, upstream
from store.entries import Entry
from store.errors import DataError, ParamsError
from store.images import ImageTable
from store.layout import Layout, part_name


@dataclass(frozen=True, slots=True)
class Inputs:
    """The teacher, and one shard of images and crops."""

    layout: Layout
    images_folder: Path
    first_image_id: int
    images: ImageTable
    crops: Entry
    teacher: Model
    device: torch.device
    kept: Kept
    device_kind: str
    """``cpu`` or ``cuda``, in the key: where this shard is computed, or was."""

    def lineage(self) -> dict[str, Json]:
        """Digests of images, crops and teacher, how pixels are made, and what is kept."""
        spec = self.teacher.spec
        return {
            "images": self.images.digest(
                self.first_image_id, "paths", "class_ids", "content_hashes"
            ),
            "crops": self.crops.rows_digest,
            "teacher": self.teacher.digest,
            "pixels": {
                "size": list(spec.size),
                "interpolation": spec.interpolation,
                "mean": list(spec.mean),
                "std": list(spec.std),
            },
            "num_classes": self.images.num_classes,
            "num_ranked": self.kept.num_ranked,
            "is_dense": self.kept.is_dense,
            "device": self.device_kind,
        }

    def read_crops(self) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Boxes (N, M, 4) and flips (N, M).

        Raises:
            DataError: the file does not hold M rows of each of these images.
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
        boxes = np.stack(box, axis=1).reshape(len(self.images), num_crops, 4)
        return boxes, tables.column(table, "flip").reshape(len(self.images), num_crops)


def open_inputs(config: Config, source: Source) -> Callable[[int], Inputs]:
    """Load the image table and the teacher once; the result gives the inputs of a shard.

    Raises:
        DataError: an input is missing, does not fit, or the teacher has other classes.
        ParamsError: no such teacher, no such device, or a precision that it does not do.
    """
    _refuse_random_weights(config)
    device = devices.choose(config.device, "infer.device")
    table = images.load(source.layout)
    listed = source.layout.table("images", images.STEM)
    teacher = _build(config, table.num_classes)
    _check_class_names(config, table, listed)
    teacher.module.to(memory_format=torch.channels_last)
    teacher.module.to(device).eval()
    teacher.module.requires_grad_(False)

    def of_shard(shard: int) -> Inputs:
        start, stop = images.shard_bounds(len(table), source.num_shards, shard)
        own = table.slice(start, stop)
        crops = upstream.require(source.layout, "crops", part_name(shard), "sample")
        sampled_from = own.digest(start, "paths", "heights", "widths")
        upstream.require_fit(source.layout, crops, "images", sampled_from, str(listed))
        kept = Kept.of(config, int(crops.attribute("num_crops")), own.num_classes)
        folder = source.images_folder
        here = Inputs(source.layout, folder, start, own, crops, teacher, device, kept, device.type)
        there = _as_recorded(config, here) if config.device == "auto" else here
        _refuse_half_on_cpu(config, there)
        return there

    return of_shard


def _build(config: Config, num_classes: int) -> Model:
    try:
        return build(config.teacher, num_classes)
    except ParamsError as error:
        raise ParamsError(f"infer.teacher.{error}") from error


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


def _refuse_random_weights(config: Config) -> None:
    """A teacher that is drawn anew in every process has nothing to say, and no two keys alike."""
    teacher = config.teacher
    if not teacher.pretrained and teacher.weights is None:
        raise ParamsError(
            f"infer.teacher: {teacher.name} has neither weights nor pretrained: true, so its "
            "weights would be random; give one of them"
        )
    if teacher.new_classifier:
        raise ParamsError(
            "infer.teacher.new_classifier: a new classifier knows nothing; use a teacher of the "
            "images' classes"
        )


def _check_class_names(config: Config, table: ImageTable, listed: Path) -> None:
    """Class c of a teacher that this tool trained must be class c of the images."""
    path = config.teacher.weights
    card = None if path is None else find_card(Path(path))
    if card is None or card.classes == table.class_names:
        return
    pairs = zip(card.classes, table.class_names, strict=True)  # build has compared the counts
    place, (its, ours) = next((c, pair) for c, pair in enumerate(pairs) if pair[0] != pair[1])
    raise DataError(
        f"{path}: its class {place} is {its!r}, that of {listed} is {ours!r}; train the teacher "
        "on these images: `ferkd-pipeline stage teacher`"
    )

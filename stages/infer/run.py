"""The stage infer: images + crops -> predictions, for one shard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.infer.config import Config
from stages.infer.core import Arrays, Kept, crop_keys, kept_values
from stages.infer.feed import Batch, CropFeed
from stages.infer.reuse import Donors
from stages.shared.contract import Json, Progress, Report, Source
from stages.shared.models import Model, build
from stages.shared.pixels import normalise
from store import images, shelf, tables, upstream
from store.arrays import ArrayWriter
from store.digest import RowsDigest
from store.entries import Entry
from store.errors import DataError, ShardError
from store.images import ImageTable
from store.layout import Layout, part_name
from store.parts import PartWriter
from store.schema import INFER_REJECTS

ARTIFACT = "predictions"
REVISION = 1
"""Raised when the same parameters would give other rows."""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


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

    def lineage(self) -> dict[str, Json]:
        """Digests of images, crops and teacher, and how pixels are made."""
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
            "device": self.device.type,
        }

    def read_crops(self) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Boxes (N, M, 4) and flips (N, M).

        Raises:
            DataError: the file does not hold M rows of each of these images.
        """
        path = self.layout.table("crops", self.crops.stem)
        table = tables.read_table(path)
        num_crops = int(self.crops.attributes["num_crops"])
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
        ParamsError: no such teacher, or no such device.
    """
    table = images.load(source.layout)
    device = _device(config)
    teacher = build(config.teacher, table.num_classes)
    teacher.module.to(memory_format=torch.channels_last)
    teacher.module.to(device).eval()
    teacher.module.requires_grad_(False)

    def of_shard(shard: int) -> Inputs:
        start, stop = images.shard_bounds(len(table), source.num_shards, shard)
        own = table.slice(start, stop)
        crops = upstream.require(source.layout, "crops", part_name(shard), "sample")
        sampled_from = own.digest(start, "paths", "heights", "widths")
        listed = str(source.layout.table("images", images.STEM))
        upstream.require_fit(source.layout, crops, "images", sampled_from, listed)
        return Inputs(source.layout, source.images_folder, start, own, crops, teacher, device)

    return of_shard


def _device(config: Config) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise DataError("infer.device is cuda, but torch sees no CUDA device; use auto or cpu")
    return torch.device(config.device)


def run(config: Config, inputs: Inputs, output: PartWriter, progress: Progress) -> Report:
    """Label a shard's crops, block by block, and publish them.

    Blocks that an interrupted run finished are kept; predictions of earlier shards that still
    hold are copied. Rows of unusable images are NaN and listed in ``_rejects-*.parquet``.

    Raises:
        ShardError: the teacher gave NaN or infinity, or too many images are unusable.
    """
    shard = _ShardRun(config, inputs, output, progress)
    shard.write_blocks()
    return shard.publish()


@dataclass
class _ShardRun:
    config: Config
    inputs: Inputs
    output: PartWriter
    progress: Progress
    num_copied: int = 0
    rejects: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inputs, config = self.inputs, self.config
        self.boxes, self.flips = inputs.read_crops()
        self.num_crops = self.flips.shape[1]
        self.kept = Kept.of(config, self.num_crops, inputs.images.num_classes)
        self.attributes: dict[str, Any] = {
            "num_crops": self.num_crops,
            "num_classes": self.kept.num_classes,
            "arrays": sorted(self.kept.specs()),
            "temperatures": list(self.kept.temperatures),
        }
        self.folder = inputs.layout.resumable("infer", self.output.key)
        self._recover_unpublished()
        self.writer = ArrayWriter(
            self.folder,
            self.kept.specs(),
            num_images=len(inputs.images),
            block_images=config.block_images,
            attributes=self.output.metadata(self.attributes),
        )

    def _recover_unpublished(self) -> None:
        """Take back arrays that a killed run had moved into place without publishing them."""
        final = self.inputs.layout.arrays(ARTIFACT, self.output.stem)
        own = self.folder / "arrays.zarr"
        if not own.exists() and final.exists() and (self.folder / "journal").exists():
            final.rename(own)

    def write_blocks(self) -> None:
        """Write every block that is not written yet."""
        inputs, config, writer = self.inputs, self.config, self.writer
        done = [block for block in range(writer.num_blocks) if writer.is_done(block)]
        for block in done:
            self.rejects.update({int(k): v for k, v in writer.note(block).items()})
        left = [block for block in range(writer.num_blocks) if block not in set(done)]
        images_left = sum(writer.bounds(b)[1] - writer.bounds(b)[0] for b in left)
        if done and left:
            self.progress.note(f"{self.output.stem}: {len(done)} blocks were done already")
        label = f"infer {self.output.stem}"
        self.progress.start(label, images_left * self.num_crops, "crops")
        if not left:
            return
        feed = CropFeed(
            inputs.images_folder,
            inputs.images,
            self.boxes,
            self.flips,
            inputs.teacher.spec,
            config.num_workers,
        )
        keys = crop_keys(inputs.images, self.boxes, self.flips)
        donors = Donors.find(inputs.layout, self.output.lineage)
        for block in left:
            self._write_block(block, feed, keys, donors)

    def _write_block(
        self, block: int, feed: CropFeed, keys: NDArray[np.uint64], donors: Donors
    ) -> None:
        start, stop = self.writer.bounds(block)
        values = self.kept.rejected(stop - start)
        known = donors.copy(self.kept, keys[start:stop], values)
        self.num_copied += int(known.sum())
        self.progress.advance(int(known.sum()))
        wanted = np.argwhere(~known) + np.array([start, 0])
        failed = self._forward(feed, wanted, start, values)
        for image in failed:
            for name, rejected in self.kept.rejected(1).items():
                values[name][image - start] = rejected[0]
        first = self.inputs.first_image_id
        values["image_id"] = np.arange(first + start, first + stop, dtype=np.int32)
        values["crop_key"] = keys[start:stop]
        note: Json = {str(image): reason for image, reason in sorted(failed.items())}
        self.writer.write(block, values, note)
        self.rejects.update(failed)
        self._check_rejects()

    def _forward(
        self, feed: CropFeed, wanted: NDArray[np.int64], start: int, values: Arrays
    ) -> dict[int, str]:
        """Label the crops ``wanted`` into ``values``; returns images that could not be used."""
        failed: dict[int, str] = {}
        for batch in feed.batches(wanted, self.config.batch_size):
            rows = wanted[batch.first : batch.first + batch.num_crops]
            for name, array in self._label(batch, rows).items():
                values[name][rows[:, 0] - start, rows[:, 1]] = array
            failed.update(batch.failed)
            self.progress.advance(batch.num_crops)
        return failed

    def _label(self, batch: Batch, rows: NDArray[np.int64]) -> Arrays:
        device, spec = self.inputs.device, self.inputs.teacher.spec
        pixels = batch.pixels.to(device, non_blocking=True)
        dtype = _AUTOCAST.get(self.config.precision)
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
        ):
            logits = self.inputs.teacher.module(normalise(pixels, spec.mean, spec.std))
            logits = logits[: batch.num_crops].float()
            self._check_logits(logits, batch, rows)
            targets = torch.as_tensor(self.inputs.images.class_ids[rows[:, 0]], dtype=torch.int64)
            kept = kept_values(self.kept, logits, targets.to(device))
        return {name: tensor.cpu().numpy() for name, tensor in kept.items()}

    def _check_logits(self, logits: torch.Tensor, batch: Batch, rows: NDArray[np.int64]) -> None:
        if logits.shape[1] != self.kept.num_classes:
            raise DataError(
                f"the teacher {self.config.teacher.name} gives {logits.shape[1]} classes, the "
                f"images have {self.kept.num_classes}; use a teacher of these classes"
            )
        bad = (~torch.isfinite(logits).all(dim=1)).cpu().numpy()
        bad &= ~np.isin(rows[:, 0], list(batch.failed))
        if bad.any():
            image, crop = rows[np.flatnonzero(bad)[0]]
            raise ShardError(
                f"the teacher {self.config.teacher.name} gave NaN or infinity for crop {crop} of "
                f"{self.inputs.images.paths[image]}; try infer.precision float32 or other weights"
            )

    def _check_rejects(self) -> None:
        limit = self.config.max_reject_share * len(self.inputs.images)
        if len(self.rejects) > limit:
            image, reason = next(iter(sorted(self.rejects.items())))
            raise ShardError(
                f"{len(self.rejects)} of {len(self.inputs.images)} images of {self.output.stem} "
                f"are unusable, more than infer.max_reject_share allows; the first is "
                f"{self.inputs.images.paths[image]}: {reason}"
            )

    def publish(self) -> Report:
        """Publish the written blocks as the shard's predictions."""
        digest, num_right, num_labelled = self._digest()
        rejected = sorted(self.rejects)
        table = tables.make_table(
            INFER_REJECTS,
            {
                "image_id": [self.inputs.first_image_id + image for image in rejected],
                "path": [self.inputs.images.paths[image] for image in rejected],
                "reason": [self.rejects[image] for image in rejected],
            },
        )
        numbers: dict[str, Json] = {
            "num_images": len(self.inputs.images),
            "num_crops": self.num_crops,
            "num_classes": self.kept.num_classes,
            "num_rejected_images": len(rejected),
            "num_labelled_crops": num_labelled,
            "num_crops_right": num_right,
        }
        self.output.publish_arrays(
            self.writer.path,
            len(self.inputs.images) * self.num_crops,
            digest,
            numbers,
            attributes=self.attributes,
            beside={self._rejects_stem: table},
        )
        shelf.clear(self.folder)
        self._say_what_is_special(len(rejected))
        return Report(numbers)

    @property
    def _rejects_stem(self) -> str:
        return self.output.stem.replace("part", "_rejects")

    def _digest(self) -> tuple[str, int, int]:
        """Rows digest of all blocks, read back, and how many crops the teacher got right."""
        digest, num_right, num_labelled = RowsDigest(), 0, 0
        for block in range(self.writer.num_blocks):
            values = self.writer.read(block)
            digest.update(values)
            start, stop = self.writer.bounds(block)
            usable = ~np.isnan(values["logsumexp"][..., 0])
            right = values["topk_class"][..., 0] == self.inputs.images.class_ids[start:stop, None]
            num_right += int((right & usable).sum())
            num_labelled += int(usable.sum())
        return digest.hexdigest(), num_right, num_labelled

    def _say_what_is_special(self, num_rejected: int) -> None:
        stem = self.output.stem
        if self.num_copied:
            self.progress.note(f"{stem}: {self.num_copied:,} crops copied from earlier shards")
        if num_rejected:
            listed = self.output.layout.table(ARTIFACT, self._rejects_stem)
            self.progress.note(f"{stem}: {num_rejected} images could not be used, see {listed}")


def summarise(artifact: str, numbers: Sequence[dict[str, Any]]) -> Report:
    """How right the teacher is on all shards together, with a warning near chance.

    Not shard by shard: images are sorted by path, so a shard holds few classes.
    """
    num_labelled = sum(each["num_labelled_crops"] for each in numbers)
    num_rejected = sum(each["num_rejected_images"] for each in numbers)
    share = sum(each["num_crops_right"] for each in numbers) / max(1, num_labelled)
    lines = (
        f"{num_labelled:,} crops labelled; the teacher's first class is the ground truth on "
        f"{share:.1%} of them",
    )
    warnings: list[str] = []
    if num_labelled and share < 2 / numbers[0]["num_classes"]:
        warnings.append(
            f"the teacher is near chance ({share:.2%} right): its normalisation or its order of "
            "classes is probably not that of these images"
        )
    if num_rejected:
        warnings.append(f"{num_rejected} images could not be used, see {artifact}/_rejects-*")
    return Report(lines=lines, warnings=tuple(warnings))

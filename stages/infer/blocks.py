"""One shard's predictions, made block by block in a work folder that survives a kill.

Shapes: N images of a block, M crops an image.
"""

import numpy as np
from numpy.typing import NDArray

from stages.infer.config import Config
from stages.infer.core import Arrays, crop_keys
from stages.infer.feed import CropFeed
from stages.infer.forward import Labeller, PixelKey, pixel_key
from stages.infer.inputs import Inputs
from stages.infer.reuse import Donors
from stages.shared.contract import Json, Progress
from store.arrays import ArrayWriter
from store.atomic import rename
from store.errors import ShardError
from store.parts import PartWriter

Feeds = dict[PixelKey, CropFeed]


class Blocks:
    """Writes the blocks that an earlier run of the same shard key did not finish."""

    def __init__(
        self, config: Config, inputs: Inputs, output: PartWriter, progress: Progress
    ) -> None:
        """Open the work folder of the shard's key, made where there is none."""
        self._config, self._inputs = config, inputs
        self._output, self._progress = output, progress
        self._boxes, self._flips, self._ops = inputs.read_crops()
        self._labeller = Labeller(config, inputs)
        self.folder = inputs.layout.resumable("infer", output.key)
        self.attributes: dict[str, Json] = inputs.kept.attributes()
        self._recover_unpublished()
        self.writer = ArrayWriter(
            self.folder,
            inputs.kept.specs(),
            num_images=len(inputs.images),
            block_images=config.block_images,
            attributes=output.metadata(self.attributes),
        )
        self.rejects: dict[int, str] = {}
        """Images (rows of the shard) that could not be used, with the reason."""
        self.num_copied = 0
        """Crops whose prediction was copied from an earlier shard."""

    def _recover_unpublished(self) -> None:
        """Take back arrays that a killed run had moved into place without publishing them."""
        output, own = self._output, self.folder / "arrays.zarr"
        final = output.layout.arrays(output.artifact, output.stem)
        has_entry = output.layout.entry(output.artifact, output.stem).exists()
        was_moved = not own.exists() and (self.folder / "journal").exists()
        if was_moved and final.exists() and not has_entry:
            rename(final, own)

    def write_all(self) -> None:
        """Write every block that is not written yet.

        Raises:
            ShardError: a teacher gave NaN or infinity, or too many images are unusable.
            DataError: an image is not the one that was indexed, or a teacher has other classes.
        """
        inputs, writer = self._inputs, self.writer
        feeds = self._feeds()
        first = next(iter(feeds.values()))
        left = [block for block in range(writer.num_blocks) if not self._take_up(block, first)]
        self._refuse_too_many()
        if 0 < len(left) < writer.num_blocks:
            num_done = writer.num_blocks - len(left)
            self._progress.note(f"{self._output.stem}: {num_done} blocks were done already")
        num_images = sum(stop - start for start, stop in map(writer.bounds, left))
        label = f"infer {self._output.stem}"
        self._progress.start(label, num_images * inputs.kept.num_crops, "crops")
        if left:
            keys = crop_keys(inputs.images, self._boxes, self._flips, self._ops)
            donors = Donors.find(inputs.layout, self._output.lineage, keys)
            for block in left:
                self._write(block, feeds, keys, donors)

    def _feeds(self) -> Feeds:
        """One feed of crops for each size and interpolation that a teacher wants."""
        inputs = self._inputs
        specs = {pixel_key(each.model.spec): each.model.spec for each in inputs.teachers}
        num_workers = max(1, self._config.num_workers // len(specs))
        return {
            key: CropFeed(
                inputs.images_folder,
                inputs.images,
                self._boxes,
                self._flips,
                spec,
                num_workers,
                self._ops,
            )
            for key, spec in specs.items()
        }

    def _take_up(self, block: int, feed: CropFeed) -> bool:
        """Whether a block is done, its unusable images being unusable still."""
        if not self.writer.is_done(block):
            return False
        rejects = {int(image): reason for image, reason in self.writer.note(block).items()}
        if any(feed.why_unusable(image) != reason for image, reason in rejects.items()):
            return False
        self.rejects.update(rejects)
        return True

    def _write(self, block: int, feeds: Feeds, keys: NDArray[np.uint64], donors: Donors) -> None:
        kept, (start, stop) = self._inputs.kept, self.writer.bounds(block)
        values = kept.rejected(stop - start)
        known = donors.copy(kept, keys[start:stop], values)
        self.num_copied += int(known.sum())
        self._progress.advance(int(known.sum()))
        wanted = np.argwhere(~known) + np.array([start, 0])
        failed = self._forward(feeds, wanted, start, values)
        for image in failed:
            for name, rejected in kept.rejected(1).items():
                values[name][image - start] = rejected[0]
        first = self._inputs.first_image_id
        values["image_id"] = np.arange(first + start, first + stop, dtype=np.int32)
        values["crop_key"] = keys[start:stop]
        self.rejects.update(failed)
        self._refuse_too_many()
        note: Json = {str(image): reason for image, reason in sorted(failed.items())}
        self.writer.write(block, values, note)

    def _forward(
        self, feeds: Feeds, wanted: NDArray[np.int64], start: int, values: Arrays
    ) -> dict[int, str]:
        """Label the crops ``wanted`` into ``values``; returns images that could not be used."""
        failed: dict[int, str] = {}
        streams = [feed.batches(wanted, self._config.batch_size) for feed in feeds.values()]
        for batches in zip(*streams, strict=True):
            first, num_crops = batches[0].first, batches[0].num_crops
            rows = wanted[first : first + num_crops]
            by_pixels = dict(zip(feeds, batches, strict=True))
            for name, array in self._labeller.label(by_pixels, rows).items():
                values[name][rows[:, 0] - start, rows[:, 1]] = array
            for batch in batches:
                failed.update(batch.failed)
            self._progress.advance(num_crops)
        return failed

    def _refuse_too_many(self) -> None:
        table, limit = self._inputs.images, self._config.max_reject_share
        if len(self.rejects) > limit * len(table):
            image, reason = min(self.rejects.items())
            raise ShardError(
                f"{len(self.rejects)} of {len(table)} images of {self._output.stem} are unusable, "
                f"more than infer.max_reject_share = {limit:g}; the first is "
                f"{table.paths[image]}: {reason}; repair them or raise the limit"
            )

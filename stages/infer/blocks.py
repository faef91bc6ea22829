"""One shard's predictions, made block by block in a work folder that survives a kill.

Shapes: N images of a block, M crops an image, P crops of a block that are to be labelled.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stages.infer.background import Background
from stages.infer.clock import Clock, NoClock
from stages.infer.config import Config
from stages.infer.core import IDENTITY, Arrays, crop_keys
from stages.infer.feed import CropList, Crops
from stages.infer.forward import Labelled, Labeller
from stages.infer.inputs import Inputs
from stages.infer.reuse import Donors
from stages.infer.unfinished import Piece, Unfinished
from stages.shared.contract import Json, Progress
from store.arrays import ArrayWriter
from store.atomic import rename
from store.errors import FerkdError, ShardError
from store.parts import PartWriter


@dataclass(slots=True)
class _Block:
    """A block that is being labelled."""

    number: int
    values: Arrays
    """(N, M, ..) by array."""
    wanted: NDArray[np.int64]
    """(P, 2): image row of the block and crop, of what is not copied from elsewhere."""
    num_done: int = 0
    """Crops of ``wanted`` that are labelled, from the first on."""
    num_saved: int = 0
    """Of these, those that are kept on disk already."""
    failed: dict[int, str] = field(default_factory=dict)
    """Image rows of the shard that could not be used, with the reason."""


class Blocks:
    """Writes the blocks that an earlier run of the same shard key did not finish."""

    def __init__(
        self,
        config: Config,
        inputs: Inputs,
        output: PartWriter,
        progress: Progress,
        crops: Crops | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open the work folder of the shard's key, made where there is none.

        ``crops`` are those of the inputs, which are read where they are not given.
        """
        self._config, self._inputs = config, inputs
        self._output, self._progress = output, progress
        self._clock = NoClock() if clock is None else clock
        self._crops = Crops(*inputs.read_crops()) if crops is None else crops
        self._labeller = Labeller(config, inputs, self._crops, self._clock)
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
        self._unfinished = Unfinished(self.folder, inputs.kept.specs())
        self._open: dict[int, _Block] = {}
        self.rejects: dict[int, str] = {}
        """Images (rows of the shard) that could not be used, with the reason."""
        self.num_copied = 0
        """Crops whose prediction was copied from an earlier shard."""

    def main_classes(self, start: int, stop: int) -> NDArray[np.int32]:
        """The ground truth (images, M or 1) of crops; of mixed ones that of the larger share."""
        mixed = self._crops.mixed
        if mixed is not None:
            return mixed.main_classes(start, stop)
        return self._inputs.images.class_ids[start:stop, None]

    def _recover_unpublished(self) -> None:
        """Take back arrays that a killed run had moved into place without publishing them."""
        output, own = self._output, self.folder / "arrays.zarr"
        final = output.layout.arrays(output.artifact, output.stem)
        has_entry = output.layout.entry(output.artifact, output.stem).exists()
        was_moved = not own.exists() and (self.folder / "journal").exists()
        if was_moved and final.exists() and not has_entry:
            rename(final, own)

    def write_all(self, before: Callable[[], None] = lambda: None) -> None:
        """Write every block that is not written yet; call ``before`` if a crop needs the teachers.

        Raises:
            ShardError: a teacher gave NaN or infinity, or too many images are unusable.
            DataError: an image is not the one that was indexed, or a teacher has other classes.
        """
        inputs, writer = self._inputs, self.writer
        left = [block for block in range(writer.num_blocks) if not self._take_up(block)]
        self._refuse_too_many()
        if 0 < len(left) < writer.num_blocks:
            num_done = writer.num_blocks - len(left)
            told = "1 block was" if num_done == 1 else f"{num_done} blocks were"
            self._progress.note(f"{self._output.stem}: {told} done already")
        num_images = sum(stop - start for start, stop in map(writer.bounds, left))
        label = f"infer {self._output.stem}"
        self._progress.start(label, num_images * inputs.kept.num_crops, "crops")
        if not left:
            return
        crops = self._crops
        keys = crop_keys(inputs.images, crops.boxes, crops.flips, crops.ops, crops.mixed)
        donors = Donors.find(inputs.layout, self._output.lineage, keys)
        try:
            with Background() as background:
                lists = _told(before, self._begin(left, keys, donors, background))
                for done in self._labeller.label(lists):
                    self._take(done, keys, background)
        except (KeyboardInterrupt, FerkdError):
            self._save_all(keys)
            raise

    def _save_all(self, keys: NDArray[np.uint64]) -> None:
        """Keep what is labelled of the blocks that are open: the run is about to be left."""
        for block in self._open.values():
            if block.num_saved < block.num_done:
                with suppress(OSError):  # what ends the run is what people are to be told
                    first, failed = block.num_saved, dict(block.failed)
                    self._save(block, first, block.num_done, failed, keys)

    def _take_up(self, block: int) -> bool:
        """Whether a block is done, its unusable images being unusable still."""
        if not self.writer.is_done(block):
            return False
        rejects = _by_row(self.writer.note(block))
        if not self._are_unusable(rejects):
            return False
        self._unfinished.forget(block)  # a kill may have come between the block and this
        self.rejects.update(rejects)
        return True

    def _are_unusable(self, rejects: dict[int, str]) -> bool:
        feed = self._labeller.feed
        return all(feed.is_unusable(image, reason) for image, reason in rejects.items())

    def _begin(
        self,
        left: Iterable[int],
        keys: NDArray[np.uint64],
        donors: Donors,
        background: Background,
    ) -> Iterator[CropList]:
        """Begin blocks as the threads that decode get to them; yield what is to be labelled."""
        kept = self._inputs.kept
        for number in left:
            start, stop = self.writer.bounds(number)
            values = kept.rejected(stop - start)
            known = donors.copy(kept, keys[start:stop], values)
            block = _Block(number, values, np.argwhere(~known))
            self._continue(block, keys[start:stop])
            self.num_copied += int(known.sum())
            self._progress.advance(int(known.sum()) + block.num_done)
            if block.num_done == len(block.wanted):
                self._finish(block, keys, background)
                continue
            self._open[number] = block
            yield CropList(number, block.wanted[block.num_done :] + np.array([start, 0]))

    def _continue(self, block: _Block, keys: NDArray[np.uint64]) -> None:
        """Take up what an earlier run labelled of a block that it did not finish."""
        pieces = self._unfinished.load(block.number, keys[tuple(block.wanted.T)])
        failed = _by_row(pieces[-1].note) if pieces else {}
        if not self._are_unusable(failed):
            self._unfinished.forget(block.number)
            return
        for piece in pieces:
            self._put(block, piece.rows, piece.stop)
        block.num_saved, block.failed = block.num_done, failed

    def _take(self, done: Labelled, keys: NDArray[np.uint64], background: Background) -> None:
        block = self._open[done.batch.block]
        self._put(block, done.arrays, block.num_done + len(done.batch.rows))
        block.failed.update(done.batch.failed)
        self._progress.advance(len(done.batch.rows))
        if block.num_done == len(block.wanted):
            del self._open[block.number]
            self._finish(block, keys, background)
        elif self._unfinished.is_due():
            first, block.num_saved = block.num_saved, block.num_done
            background.run(self._save, block, first, block.num_done, dict(block.failed), keys)

    def _put(self, block: _Block, arrays: Arrays, num_done: int) -> None:
        """Put rows ``block.num_done`` to ``num_done`` of what is wanted into their places."""
        images, crops = block.wanted[block.num_done : num_done].T
        for name, array in arrays.items():
            block.values[name][images, crops] = array
        block.num_done = num_done

    def _save(
        self,
        block: _Block,
        first: int,
        stop: int,
        failed: dict[int, str],
        keys: NDArray[np.uint64],
    ) -> None:
        """Keep rows ``first`` to ``stop`` of what is wanted; those after them change meanwhile."""
        begin, end = self.writer.bounds(block.number)
        images, crops = block.wanted[first:stop].T
        names = [name for name in block.values if name not in IDENTITY]
        rows = {name: block.values[name][images, crops] for name in names}
        note = {str(image): reason for image, reason in sorted(failed.items())}
        wanted = keys[begin:end][tuple(block.wanted.T)]
        self._unfinished.save(block.number, wanted, Piece(first, stop, rows, note))

    def _finish(self, block: _Block, keys: NDArray[np.uint64], background: Background) -> None:
        kept, (start, stop) = self._inputs.kept, self.writer.bounds(block.number)
        for image in block.failed:
            for name, rejected in kept.rejected(1).items():
                block.values[name][image - start] = rejected[0]
        first = self._inputs.first_image_id
        block.values["image_id"] = np.arange(first + start, first + stop, dtype=np.int32)
        block.values["crop_key"] = keys[start:stop]
        self.rejects.update(block.failed)
        self._refuse_too_many()
        background.run(self._write, block)

    def _write(self, block: _Block) -> None:
        note: Json = {str(image): reason for image, reason in sorted(block.failed.items())}
        with self._clock.time("write"):
            self.writer.write(block.number, block.values, note)
        self._unfinished.forget(block.number)

    def _refuse_too_many(self) -> None:
        table, limit = self._inputs.images, self._config.max_reject_share
        if len(self.rejects) > limit * len(table):
            image, reason = min(self.rejects.items())
            raise ShardError(
                f"{len(self.rejects)} of {len(table)} images of {self._output.stem} are unusable, "
                f"more than infer.max_reject_share = {limit:g}; the first is "
                f"{table.paths[image]}: {reason}; repair them or raise the limit"
            )


def _told(before: Callable[[], None], lists: Iterator[CropList]) -> Iterator[CropList]:
    """``lists``, with a call before the first one."""
    for number, each in enumerate(lists):
        if number == 0:
            before()
        yield each


def _by_row(note: dict[str, str]) -> dict[int, str]:
    """Reasons by image row, of a note in JSON."""
    return {int(image): reason for image, reason in note.items()}

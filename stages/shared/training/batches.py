"""Which crops and labels make a training step: a pure function of (seed, step).

Shapes: N images, I images a step, m crops of an image in a step, C classes.

The images of all steps are one endless line: pass 0 is a permutation of the N rows, pass 1 another
one, and so on; where every pass has the same m, step s takes places s*I .. (s+1)*I - 1. Batches are
thus cut across passes and nothing is dropped: every image gives exactly m crops a pass, and any
step can be made again (`passes` has the whole rule).
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stages.shared.training.passes import Passes, Turn
from store.batch import LabelBatch, RecordedOps
from store.random import CropPlan, Purpose, draw_boxes, draw_flips
from store.view.reader import ViewMeta

Labels = Literal["store", "truth"]
Part = tuple[int, int]
"""(number, count): one of equal parts of a step's images, in order."""

WHOLE: Part = (0, 1)
"""The only part of a step that is not divided."""

_ORDER_COUNTER = 0x6F72646572  # a word of its own: no other draw uses this counter
_CACHED_PASSES = 2  # a batch touches two passes at most unless it holds more images than a pass


class CropView(Protocol):
    """What training needs of `store.view.reader.TrainingView`; rows index its usable images."""

    @property
    def meta(self) -> ViewMeta:
        """Which labels it serves."""

    @property
    def num_images(self) -> int:
        """N, usable images."""

    @property
    def num_classes(self) -> int:
        """C."""

    @property
    def heights(self) -> NDArray[np.int32]:
        """(N,) pixels."""

    @property
    def widths(self) -> NDArray[np.int32]:
        """(N,) pixels."""

    def paths(self, rows: NDArray[np.int64]) -> list[str]:
        """Files of the rows' images."""

    @property
    def content_hashes(self) -> NDArray[np.uint64] | None:
        """(N, 2) xxh3-128 of the image files, high word first; None where they are not known."""

    def draw(self, rows: NDArray[np.int64], first: int, m: int, seed: int) -> NDArray[np.int64]:
        """Crop numbers (I, m), without replacement; each image gave ``first`` before."""

    def gather(self, rows: NDArray[np.int64], crops: NDArray[np.int64]) -> LabelBatch:
        """Boxes and labels of the chosen crops."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Crops of I images to read, and their labels."""

    paths: list[str]
    """I image files."""
    heights: NDArray[np.int32]
    """(I,) pixels that the boxes were drawn for."""
    widths: NDArray[np.int32]
    """(I,)"""
    batch: LabelBatch
    """Boxes, flips and labels of I x m crops."""
    content_hashes: NDArray[np.uint64] | None = None
    """(I, 2) xxh3-128 of the files that were labelled; None: not known, or any will do."""


class CropSource(Protocol):
    """Where the crops of a training come from; picklable, for worker processes."""

    @property
    def num_images(self) -> int:
        """N."""

    @property
    def num_classes(self) -> int:
        """C."""

    @property
    def decoded_bytes(self) -> int:
        """Size of all its images when decoded."""

    def select(self, rows: NDArray[np.int64], turn: Turn) -> Selection:
        """Return the crops that ``rows`` (I,) give in a pass."""


class StoredCrops:
    """Crops of the label store, with its labels or, on the very same crops, the ground truth's."""

    def __init__(self, view: CropView, seed: int, labels: Labels = "store") -> None:
        self._view = view
        self._seed = seed
        self._labels = labels
        self.num_images = view.num_images
        self.num_classes = view.num_classes
        self.decoded_bytes = _decoded_bytes(view.heights, view.widths)

    def select(self, rows: NDArray[np.int64], turn: Turn) -> Selection:
        """Return the crops that ``rows`` (I,) give in a pass."""
        view = self._view
        batch = view.gather(rows, view.draw(rows, turn.first, turn.m, self._seed))
        if self._labels == "truth":
            truth = truth_labels(batch.boxes, batch.flips, batch.targets)
            batch = replace(truth, ops=batch.ops)
        hashes = None if view.content_hashes is None else view.content_hashes[rows]
        return Selection(view.paths(rows), view.heights[rows], view.widths[rows], batch, hashes)


@dataclass(frozen=True)
class FreshCrops:
    """New crops in every pass, labelled with the ground truth: for training without a store."""

    files: list[str]
    """N image files."""
    targets: NDArray[np.int64]
    """(N,) ground-truth classes."""
    hashes: NDArray[np.uint64]
    """(N,) `store.random.path_hashes` of the images' relative paths."""
    heights: NDArray[np.int32]
    """(N,) pixels."""
    widths: NDArray[np.int32]
    """(N,) pixels."""
    num_classes: int
    plan: CropPlan
    flip: float
    """Probability that a crop is mirrored."""
    seed: int
    content_hashes: NDArray[np.uint64] | None = None
    """(N, 2) of the files that were indexed, as `Selection`'s; None: any will do."""

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.files)

    @property
    def decoded_bytes(self) -> int:
        """Size of all images when decoded."""
        return _decoded_bytes(self.heights, self.widths)

    def select(self, rows: NDArray[np.int64], turn: Turn) -> Selection:
        """Return the crops that ``rows`` (I,) give in a pass; the pass is the random stream."""
        hashes, heights, widths = self.hashes[rows], self.heights[rows], self.widths[rows]
        boxes = draw_boxes(
            self.seed,
            hashes,
            heights,
            widths,
            turn.m,
            self.plan,
            purpose=Purpose.FRESH_BOX,
            stream=turn.number,
        )
        flips = draw_flips(
            self.seed, hashes, turn.m, self.flip, purpose=Purpose.FRESH_FLIP, stream=turn.number
        )
        batch = truth_labels(boxes, flips, self.targets[rows])
        known = None if self.content_hashes is None else self.content_hashes[rows]
        return Selection([self.files[row] for row in rows], heights, widths, batch, known)


class StepPlan:
    """Which rows a step takes, in which pass."""

    def __init__(self, passes: Passes, seed: int) -> None:
        assert passes.num_images > 0
        self.passes = passes
        self._seed = seed
        self._orders: dict[int, NDArray[np.int64]] = {}

    def rows(self, step: int, part: Part = WHOLE) -> list[tuple[Turn, NDArray[np.int64]]]:
        """Return (pass, rows) pairs in order; together they hold the images of a step's part."""
        pieces = self.passes.pieces(step)
        total = sum(piece.stop - piece.start for piece in pieces)
        number, count = part
        assert total % count == 0, "the parts of a step are equal"
        low, high = number * total // count, (number + 1) * total // count
        found, before = [], 0
        for turn, start, stop in pieces:
            first, last = max(low - before, 0) + start, min(high - before, stop - start) + start
            if first < last:
                found.append((turn, self.order(turn.number)[first:last]))
            before += stop - start
        return found

    def order(self, pass_number: int) -> NDArray[np.int64]:
        """Return the permutation (N,) of a pass."""
        order = self._orders.get(pass_number)
        if order is None:
            # Raw words of Philox are the same in every numpy version; `permutation` need not be.
            key = np.array([self._seed, pass_number], dtype=np.uint64)
            counter = np.array([0, 0, 0, _ORDER_COUNTER], dtype=np.uint64)
            words = np.random.Philox(key=key, counter=counter).random_raw(self.passes.num_images)
            order = np.argsort(words, kind="stable")
            while len(self._orders) >= _CACHED_PASSES:
                del self._orders[next(iter(self._orders))]
            self._orders[pass_number] = order
        return order


def select_step(source: CropSource, plan: StepPlan, step: int, part: Part = WHOLE) -> Selection:
    """Return the crops of a step, or of a part of it."""
    parts = [source.select(rows, turn) for turn, rows in plan.rows(step, part)]
    if len(parts) == 1:
        return parts[0]
    hashes = [each.content_hashes for each in parts if each.content_hashes is not None]
    return Selection(
        [path for part in parts for path in part.paths],
        np.concatenate([part.heights for part in parts]),
        np.concatenate([part.widths for part in parts]),
        _concatenate([part.batch for part in parts]),
        np.concatenate(hashes) if hashes else None,
    )


def truth_labels(
    boxes: NDArray[np.int32], flips: NDArray[np.bool_], targets: NDArray[np.int64]
) -> LabelBatch:
    """Return crops (I, m) labelled one-hot with their images' ``targets`` (I,)."""
    num_images, m = flips.shape
    return LabelBatch(
        boxes=boxes,
        flips=flips,
        class_ids=np.repeat(targets, m).reshape(num_images, m, 1),
        weights=np.ones((num_images, m, 1), dtype=np.float32),
        tail=np.zeros((num_images, m), dtype=np.float32),
        targets=targets,
    )


def _concatenate(batches: list[LabelBatch]) -> LabelBatch:
    columns: dict[str, Any] = {}
    for field in fields(LabelBatch):
        values = [getattr(batch, field.name) for batch in batches]
        if field.name == "ops":
            columns[field.name] = _concatenate_ops(values)
        else:
            columns[field.name] = None if values[0] is None else np.concatenate(values)
    return LabelBatch(**columns)


def _concatenate_ops(ops: list[RecordedOps | None]) -> RecordedOps | None:
    found = [each for each in ops if each is not None]
    if not found:
        return None
    codes, levels = [each.codes for each in found], [each.levels for each in found]
    return RecordedOps(np.concatenate(codes), np.concatenate(levels))


def _decoded_bytes(heights: NDArray[np.int32], widths: NDArray[np.int32]) -> int:
    return int(3 * heights.astype(np.int64) @ widths.astype(np.int64))

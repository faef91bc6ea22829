"""Which crops and labels make a training step: a pure function of (seed, step).

Shapes: N images, I images a step, m crops of an image in a step, C classes.

The images of all steps are one endless line: pass 0 is a permutation of the N rows, pass 1 another
one, and so on; where every pass has the same m, step s takes places s*I .. (s+1)*I - 1. Batches are
thus cut across passes and nothing is dropped: every image gives exactly m crops a pass, and any
step can be made again (`passes` has the whole rule).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stages.shared.training.passes import Passes, Turn
from stages.shared.training.selection import Selection, joined, truth_labels, with_truth
from store.batch import LabelBatch
from store.mixing import MixKind
from store.random import CropPlan, Purpose, draw_boxes, draw_flips
from store.view.images import StoredImages
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

    @property
    def stored(self) -> StoredImages | None:
        """All images of the store, where its crops are mixed with them."""

    def draw(self, rows: NDArray[np.int64], first: int, m: int, seed: int) -> NDArray[np.int64]:
        """Crop numbers (I, m), without replacement; each image gave ``first`` before."""

    def gather(self, rows: NDArray[np.int64], crops: NDArray[np.int64]) -> LabelBatch:
        """Boxes and labels of the chosen crops."""


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

    @property
    def is_mixed(self) -> bool:
        """Whether its crops are mixed with other images, one each at most."""

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
        everyone = view.stored or view
        self.decoded_bytes = _decoded_bytes(everyone.heights, everyone.widths)
        self.is_mixed = view.stored is not None

    def select(self, rows: NDArray[np.int64], turn: Turn) -> Selection:
        """Return the crops that ``rows`` (I,) give in a pass."""
        view = self._view
        batch = view.gather(rows, view.draw(rows, turn.first, turn.m, self._seed))
        if self._labels == "truth":
            batch = with_truth(batch)
        hashes = None if view.content_hashes is None else view.content_hashes[rows]
        sizes = (view.heights[rows], view.widths[rows])
        partners = None
        if view.stored is not None and batch.mix is not None:
            partners = view.stored.files(batch.mix.partner_ids[batch.mix.kinds != MixKind.NONE])
        return Selection(view.paths(rows), *sizes, batch, hashes, partners)


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

    @property
    def is_mixed(self) -> bool:
        """Fresh crops are mixed by the training alone."""
        return False

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
    return parts[0] if len(parts) == 1 else joined(parts)


def _decoded_bytes(heights: NDArray[np.int32], widths: NDArray[np.int32]) -> int:
    return int(3 * heights.astype(np.int64) @ widths.astype(np.int64))

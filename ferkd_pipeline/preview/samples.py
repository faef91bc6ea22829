"""Images to look at: which, and the hardest and easiest crops of each with their labels.

Shapes: H, W height and width of an image, m chosen crops, h, w a model's input size, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferkd_pipeline.preview.words import on_of
from stages.calibrate.survey import Preview, close_up
from store.errors import FerkdError
from store.notebook import picture_inputs
from store.notebook.picture_inputs import Picture
from store.notebook.shard_tables import ShardTables
from store.overlay import Action, combine_dense

NUM_CROPS = 3
"""Hardest crops of an image, and as many easiest ones."""
_TINY = (8, 8)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image with some of its crops."""

    image_id: int
    picture: Picture
    """Its labels are the teacher's."""
    crops: NDArray[np.int64]
    """(m,) hardest first."""
    prob: NDArray[np.float32]
    """(m,) by which crops are hard or easy: the teacher's maximum, or the ground truth's .."""
    on: str
    """.. and which of both, `max` or `target`, as the recipe's thresholds use it."""
    actions: tuple[Action, ...]
    """(m,)"""
    teacher: NDArray[np.float64]
    """(m, C) labels before .."""
    label: NDArray[np.float64]
    """(m, C) .. and after calibration; NaN where dropped or rejected."""
    counts: dict[str, int]
    """All crops of the image by action, those that there are."""


@dataclass(frozen=True, slots=True)
class Found:
    """What could be pictured, and why the rest could not."""

    samples: tuple[Sample, ...]
    suspects: dict[int, NDArray[np.uint8]]
    """Pixels (H, W, 3) of suspected images, by place in `Preview.suspects`."""
    problem: str | None
    """Of the first image that could not be read."""


def gather(seen: Preview, folder: Path | None, num: int, num_suspects: int, seed: int) -> Found:
    """Read images and crops; an image that cannot be read is left out.

    Args:
        seen: of one recipe.
        folder: of the images; None: it is not known.
        num: how many to choose.
        num_suspects: the first so many suspected images.
        seed: draws the choice.

    Raises:
        DataError: labels are damaged.
    """
    if folder is None:
        return Found((), {}, "params.yaml has no index.images, the folder of the images")
    if not folder.is_dir():
        return Found((), {}, f"there is no folder {folder} (index.images of params.yaml)")
    tables = ShardTables(seen.inputs.layout)
    problems: list[str] = []
    samples = []
    for image_id in choose(seen, num, seed):
        try:
            samples.append(_sample(seen, tables, image_id, folder))
        except (FerkdError, OSError) as error:
            problems.append(_told(error))
    suspects = {}
    ids = [] if seen.suspects is None else seen.suspects.image_ids[:num_suspects].tolist()
    for place, image_id in enumerate(ids):
        try:
            suspects[place] = picture_inputs.gather(
                tables, image_id, [0], None, folder, _TINY
            ).pixels
        except (FerkdError, OSError) as error:
            problems.append(_told(error))
    return Found(tuple(samples), suspects, problems[0] if problems else None)


def _told(error: Exception) -> str:
    """Return what is wrong without the remedy, which is one for notebooks."""
    return str(error).partition("; say where the images are")[0]


def choose(seen: Preview, num: int, seed: int) -> list[int]:
    """Choose images, in turns of each sort: without crops, with each action, only kept."""
    rng = np.random.default_rng(seed)
    ids, crops = seen.looked_at.image_ids, seen.looked_at.crops > 0
    column = {action: place for place, action in enumerate(Action)}
    changed = (Action.DROP, Action.SOFTEN, Action.REVISE, Action.TRUTH)
    sorts = [crops[:, column[action]] for action in changed]
    if seen.suspects is not None:
        sorts.append(np.isin(ids, seen.suspects.image_ids))
    sorts.append(~np.logical_or.reduce(sorts) & crops[:, column[Action.KEEP]])
    orders = [rng.permutation(ids[sort]).tolist() for sort in sorts]
    found: dict[int, None] = {}
    while len(found) < num and any(orders):
        for order in orders:
            while order and order[-1] in found:
                order.pop()
            if order and len(found) < num:
                found[order.pop()] = None
    return list(found)


def _sample(seen: Preview, tables: ShardTables, image_id: int, folder: Path) -> Sample:
    rows, overlay = close_up(seen, image_id)
    on = on_of(seen)
    prob = rows.max_prob if on == "max" else rows.target_prob
    chosen = extremes(prob, NUM_CROPS)
    picture = picture_inputs.gather(tables, image_id, chosen.tolist(), None, folder, None)
    assert picture.teacher is not None, "labels without probabilities have no preview"
    label = combine_dense(
        picture.teacher,
        np.asarray(picture.target),
        overlay.teacher_weight[chosen],
        overlay.target_weight[chosen],
    )
    names = {int(action): action for action in Action}
    counts = {each.name.lower(): int((overlay.action == each).sum()) for each in Action}
    return Sample(
        image_id,
        picture,
        chosen,
        prob[chosen],
        on,
        tuple(names[int(action)] for action in overlay.action[chosen]),
        picture.teacher,
        label,
        {name: count for name, count in counts.items() if count},
    )


def extremes(prob: NDArray[np.float32], num: int) -> NDArray[np.int64]:
    """Return the crops of the smallest and the largest values, so many each, hardest first.

    Rejected crops (NaN) only where there are no others.
    """
    order = np.argsort(prob, kind="stable")
    num_valid = int((~np.isnan(prob)).sum())
    order = order[:num_valid] if num_valid else order
    if len(order) <= 2 * num:
        return order.astype(np.int64)
    return np.concatenate([order[:num], order[-num:]]).astype(np.int64)


def top_classes(sample: Sample, place: int, num: int) -> Sequence[int]:
    """Return classes to show of a crop: the ground truth, and the most probable before and after.

    Most probable after calibration first; as many as ``num``.
    """
    teacher, label = sample.teacher[place], sample.label[place]
    shown = teacher if np.isnan(label).any() else label
    order = np.lexsort((-teacher, -shown.round(9))).tolist()
    wanted = {sample.picture.target, int(np.argmax(teacher))}
    wanted |= set([c for c in order if c not in wanted][: max(0, num - len(wanted))])
    return [c for c in order if c in wanted]

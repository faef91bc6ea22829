"""Choosing crops of a store by shard, image, class, path, action and maximum probability.

Shapes: N rows (crops), I images of the store.
"""

import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store import tables
from store.errors import ParamsError
from store.images import ImageTable, shard_bounds
from store.inspection.statistics_sums import lower_edge
from store.overlay import Action
from store.precision import Precision

ACTION_NAMES = tuple(action.name.lower() for action in Action)
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Selection:
    """What to choose; what is empty or None chooses all. All conditions must hold."""

    shards: tuple[int, ...] = ()
    image_ids: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    """Names, or ids where no class has that name."""
    path: str | None = None
    """Shell pattern of the image's path: ``*`` matches any letters, ``/`` too."""
    actions: tuple[str, ...] = ()
    """Names of `ACTION_NAMES`; need a calibration."""
    max_prob: str | None = None
    """``LOW:HIGH``, low included, high not unless it is 1; either may be left out."""
    limit: int | None = None
    """Rows, at most."""

    def of_images(self, table: ImageTable) -> NDArray[np.bool_]:
        """(I,) images that conditions on images choose.

        Raises:
            ParamsError: no image can fit; names the option and what there is.
        """
        chosen = np.ones(len(table), dtype=np.bool_)
        if self.image_ids:
            chosen &= np.isin(np.arange(len(table)), _checked_ids(self.image_ids, len(table)))
        if self.classes:
            chosen &= np.isin(table.class_ids, [class_id(table, name) for name in self.classes])
        if self.path is not None:
            matches = re.compile(fnmatch.translate(self.path)).match
            chosen &= np.fromiter(
                (matches(path) is not None for path in table.paths), np.bool_, len(table)
            )
            if not chosen.any():
                raise ParamsError(
                    f"path {self.path}: no image fits; paths look like {table.paths[0]}"
                )
        return chosen

    def of_shards(self, num_shards: int, chosen: NDArray[np.bool_]) -> list[int]:
        """Shards that can hold a chosen row; ``chosen`` (I,) are images of `of_images`.

        Raises:
            ParamsError: there is no such shard.
        """
        for shard in self.shards:
            if not 0 <= shard < num_shards:
                raise ParamsError(
                    f"shard {shard}: must be 0 to {num_shards - 1}, the shards of this store"
                )
        wanted = sorted(set(self.shards)) or range(num_shards)
        bounds = {shard: shard_bounds(len(chosen), num_shards, shard) for shard in wanted}
        return [shard for shard, (start, stop) in bounds.items() if chosen[start:stop].any()]

    def bounds(self) -> tuple[float, float] | None:
        """Of the maximum probability.

        Raises:
            ParamsError: it is not two numbers in [0, 1], the first being smaller.
        """
        if self.max_prob is None:
            return None
        low, colon, high = self.max_prob.partition(":")
        try:
            found = (float(low or 0), float(high or 1))
        except ValueError:
            found = (1.0, 0.0)
        if not colon or not 0 <= found[0] < found[1] <= 1:
            raise ParamsError(
                f"max_prob {self.max_prob}: must be LOW:HIGH with 0 <= LOW < HIGH <= 1, "
                "such as 0.3:0.95"
            )
        return found


def of_max_prob(
    values: NDArray[np.float32], bounds: tuple[float, float], precision: Precision
) -> NDArray[np.bool_]:
    """(N,) whether low <= value < high, or <= where high is 1; rejected crops (NaN) never."""
    low, high = bounds
    above = values >= lower_edge(low, precision)
    return np.asarray(above if high == 1 else above & (values < lower_edge(high, precision)))


def of_actions(rows: pa.Table, names: Sequence[str]) -> NDArray[np.bool_]:
    """(N,) rows of a table with the column ``action`` that have one of these actions."""
    values = [Action[name.upper()] for name in names]
    return np.asarray(np.isin(tables.column(rows, "action"), values))


def class_id(table: ImageTable, name: str) -> int:
    """Id of a class given by its name, or by its id where no class has that name.

    Raises:
        ParamsError: there is none; says which there are.
    """
    if name in table.class_names:
        return table.class_names.index(name)
    if name.isdecimal() and int(name) < table.num_classes:
        return int(name)
    near = difflib.get_close_matches(name, table.class_names, _SHOWN, 0.6)
    shown = near or table.class_names[:_SHOWN]
    more = "" if near or len(shown) == table.num_classes else ", .."
    kind = "nearest are" if near else "there are"
    raise ParamsError(
        f"class {name}: no class of that name, and no id of 0 to {table.num_classes - 1}; "
        f"{kind} {', '.join(shown)}{more}"
    )


def _checked_ids(image_ids: Sequence[int], num_images: int) -> list[int]:
    for image_id in image_ids:
        if not 0 <= image_id < num_images:
            raise ParamsError(
                f"image_id {image_id}: must be 0 to {num_images - 1}, the images of this store"
            )
    return list(image_ids)

"""What differs between the rows of two stores on disk: boxes, labels, actions.

Only parts of which a digest differs are read, several at once, a block of rows at a time. Rows are
compared by place, which means something only where both stores have the same images.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from store import entries, images, scan, tables, upstream
from store.check import completeness
from store.entries import Entry
from store.inspection import crop_difference, shards
from store.inspection.crop_difference import CropsDifference, compare_crops
from store.inspection.label_difference import LabelsDifference, compare_labels, merge
from store.layout import Layout, list_artifacts
from store.overlay import Action
from store.progress import Progress
from store.soft_part import SoftPart

_IMAGE_COLUMNS = ["path", "class_id", "content_hash"]
_NUM_CODES = 256


@dataclass(frozen=True, slots=True)
class ImagesDifference:
    """Images by path."""

    only_a: int
    only_b: int
    other_content: int
    other_class: int


@dataclass(slots=True)
class RowsDifference:
    """What `store diff --rows` found."""

    images: ImagesDifference | None = None
    crops: CropsDifference | None = None
    labels: LabelsDifference | None = None
    calibrations: dict[str, dict[str, int]] = field(default_factory=dict)
    """By calibration, crops by ``keep -> drop``; those with the same action too."""
    notes: list[str] = field(default_factory=list)
    """What was not compared, and why."""


def compare_rows(root_a: Path, root_b: Path, progress: Progress) -> RowsDifference:
    """Compare the rows of two stores.

    Raises:
        DataError: a store lacks a shard, or a file that is read is missing or damaged.
    """
    a, b = Layout.beside(root_a), Layout.beside(root_b)
    listed_a, listed_b = _whole(a), _whole(b)
    found = RowsDifference()
    found.images = _images(a, b)
    if found.images.only_a or found.images.only_b:
        found.notes.append(
            "rows were not compared: the stores list other images, so the same id is another image"
        )
        return found
    pairs = {
        name: _pairs(name, listed_a[name], listed_b[name], found.notes)
        for name in listed_a
        if name in listed_b
    }
    total = sum(left.rows for parts in pairs.values() for left, _ in parts)
    progress.start("diff", total, "rows")
    for name, parts in pairs.items():
        if parts:
            _compare_artifact(a, b, name, parts, found, progress)
    return found


def _whole(layout: Layout) -> dict[str, list[Entry]]:
    """Entries by artifact of all that has rows of crops; every shard is there.

    Raises:
        DataError: one is not.
    """
    num_images = upstream.require(layout, "images", images.STEM, "index").rows
    names = [name for name in list_artifacts(layout) if name != "predictions"]
    listed = {
        name: entries.list_entries(layout, name) for name in names if completeness.is_sharded(name)
    }
    listed = {name: found for name, found in listed.items() if found}
    if listed:
        shards.require_whole(layout, listed, num_images)
    return listed


def _images(a: Layout, b: Layout) -> ImagesDifference:
    one, other = (upstream.require(layout, "images", images.STEM, "index") for layout in (a, b))
    names_a, names_b = (_class_names(layout) for layout in (a, b))
    if one.rows_digest == other.rows_digest and names_a.equals(names_b):
        return ImagesDifference(0, 0, 0, 0)
    rows_a, rows_b = (
        tables.read_table(layout.table("images", images.STEM), _IMAGE_COLUMNS) for layout in (a, b)
    )
    in_a, in_b = _in_both(rows_a.column("path"), rows_b.column("path"))
    hashes = (rows.column("content_hash").take(i) for rows, i in ((rows_a, in_a), (rows_b, in_b)))
    ids_a, ids_b = (
        tables.column(rows, "class_id")[i] for rows, i in ((rows_a, in_a), (rows_b, in_b))
    )
    # Classes by name: an id is another class where one was added before it.
    a_of_b = pc.index_in(names_b, names_a).fill_null(-1).to_numpy()
    return ImagesDifference(
        len(rows_a) - len(in_a),
        len(rows_b) - len(in_b),
        pc.sum(pc.not_equal(*hashes)).as_py() or 0,
        int((ids_a != a_of_b[ids_b]).sum()),
    )


def _in_both(a: pa.ChunkedArray, b: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[Any]]:
    """Places in A and in B of paths that both have; each has a path once."""
    if a.equals(b):  # no table of all paths, which takes most of the time and memory
        return np.arange(len(a)), np.arange(len(a))
    places = pc.index_in(a, b)
    in_a = np.flatnonzero(pc.is_valid(places).to_numpy())
    return in_a, places.drop_null().to_numpy()


def _class_names(layout: Layout) -> pa.ChunkedArray:
    return tables.read_table(layout.table("images", "classes"), ["name"]).column("name")


def _pairs(
    artifact: str, listed: list[Entry], others: list[Entry], notes: list[str]
) -> list[tuple[Entry, Entry]]:
    """Parts of the same images in both stores; parts that are not are noted."""
    if len(others) != len(listed):
        notes.append(
            f"{artifact} was not compared: {len(listed)} parts in A, {len(others)} in B, so parts "
            "of the same name are of other images"
        )
        return []
    found = []
    for entry, other in zip(listed, others, strict=True):  # whole sets: of the same stems
        if other.rows != entry.rows:
            notes.append(
                f"{artifact}/{entry.stem} was not compared: {entry.rows:,} rows in A, "
                f"{other.rows:,} in B"
            )
        else:
            found.append((entry, other))
    return found


def _compare_artifact(
    a: Layout,
    b: Layout,
    artifact: str,
    parts: list[tuple[Entry, Entry]],
    found: RowsDifference,
    progress: Progress,
) -> None:
    def compare(pair: tuple[Entry, Entry]) -> Any:
        if artifact == "crops":
            return compare_crops(a, b, *pair)
        if artifact == "soft":
            return compare_labels(SoftPart(a, pair[0]), SoftPart(b, pair[1]))
        return _actions(a, b, *pair)

    done: list[Any] = []
    for (entry, _), result in zip(parts, scan.in_order(compare, parts), strict=True):
        done.append(result)
        progress.advance(entry.rows)
    if artifact == "crops":
        found.crops = crop_difference.merge(done)
    elif artifact == "soft":
        found.labels = merge(done)
    else:
        codes = np.sum(done, axis=0)
        found.calibrations[artifact.split("/", 1)[1]] = _transitions(codes)


def _actions(a: Layout, b: Layout, one: Entry, other: Entry) -> NDArray[np.int64]:
    """Crops by pair of actions, (256 * 256,)."""
    counts = np.zeros(_NUM_CODES * _NUM_CODES, dtype=np.int64)
    if one.rows_digest == other.rows_digest and (counted := _counted(one)):
        for action, num_crops in counted.items():
            counts[action * (_NUM_CODES + 1)] = num_crops
        return counts
    readers = [
        scan.RowReader(layout.table(one.artifact, one.stem), ["action"]).blocks(scan.BLOCK_ROWS)
        for layout in (a, b)
    ]
    for left, right in zip(*readers, strict=True):
        codes = tables.column(left, "action").astype(np.int64) * _NUM_CODES
        counts += np.bincount(codes + tables.column(right, "action"), minlength=len(counts))
    return counts


def _counted(entry: Entry) -> dict[Action, int]:
    """Crops by action as the stage counted them; empty where it did not count them all."""
    said = entry.numbers.get("actions")
    if not isinstance(said, dict) or not all(isinstance(each, int) for each in said.values()):
        return {}
    found = {action: said.get(action.name.lower(), 0) for action in Action}
    return found if sum(found.values()) == entry.rows else {}


def _transitions(counts: NDArray[np.int64]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for code in np.flatnonzero(counts):
        before, after = divmod(int(code), _NUM_CODES)
        found[f"{_action_name(before)} -> {_action_name(after)}"] += int(counts[code])
    return dict(found)


def _action_name(value: int) -> str:
    return Action(value).name.lower() if value in set(Action) else f"unknown action {value}"

"""Whether parts of a store fit together, all bytes being as recorded."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store import images, tables
from store.arrays import ArrayReader
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout
from store.overlay import Action
from store.soft_part import SoftPart

_MADE_FROM = {
    "predictions": ("crops",),
    "soft": ("crops", "predictions"),
    "calibrated": ("soft",),
}
"""Artifacts whose rows digests an artifact's lineage records under their names."""

_IMAGE_COLUMNS = {
    "crops": ("images", ("paths", "heights", "widths")),
    "predictions": ("images", ("paths", "class_ids", "content_hashes")),
    "soft": ("targets", ("class_ids",)),
}
"""Name in the lineage, and columns of the images that its digest covers."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong."""

    file: str
    kind: str
    remedy: str


def check(layout: Layout, listed: list[Entry]) -> list[Damage]:
    """What does not fit together among the parts of a store whose bytes are right."""
    damages = [*_check_lineage(layout, listed), *_check_images(layout, listed)]
    for entry in listed:
        if entry.artifact == "predictions":
            try:
                damages += _check_rejects(layout, entry, listed)
            except DataError as error:
                damages.append(_damage(layout, entry, f"cannot be compared ({error})"))
    return damages


def _damage(layout: Layout, entry: Entry, kind: str) -> Damage:
    return Damage(str(layout.entry(entry.artifact, entry.stem)), kind, f"run `{entry.remake}`")


def _family(entry: Entry) -> str:
    return entry.artifact.split("/")[0]


def _recorded(entry: Entry, name: str) -> object:
    inputs = entry.lineage.get("inputs")
    return inputs.get(name) if isinstance(inputs, dict) else None


def _check_lineage(layout: Layout, listed: list[Entry]) -> Iterator[Damage]:
    """Parts that were made from other parts than those that stand beside them."""
    digests = {(entry.artifact, entry.stem): entry.rows_digest for entry in listed}
    for entry in listed:
        for source in _MADE_FROM.get(_family(entry), ()):
            now = digests.get((source, entry.stem))
            if now is not None and now != _recorded(entry, source):
                yield _damage(layout, entry, f"made from other {source}")


def _check_images(layout: Layout, listed: list[Entry]) -> Iterator[Damage]:
    """Parts that were made from other images than those of the table of images."""
    if not any(entry.artifact == "images" for entry in listed):
        return
    table = images.load(layout)
    for artifact, (name, columns) in _IMAGE_COLUMNS.items():
        parts = sorted(
            (entry for entry in listed if entry.artifact == artifact), key=lambda entry: entry.stem
        )
        for shard, entry in enumerate(parts):
            if _recorded(entry, name) != _images_digest(table, len(parts), shard, columns):
                yield _damage(layout, entry, f"made from other {name}")


def _images_digest(
    table: ImageTable, num_shards: int, shard: int, columns: tuple[str, ...]
) -> str | None:
    if num_shards > len(table):
        return None
    start, stop = images.shard_bounds(len(table), num_shards, shard)
    return table.slice(start, stop).digest(start, *columns)


def _check_rejects(layout: Layout, entry: Entry, listed: list[Entry]) -> Iterator[Damage]:
    """Unusable images must agree in predictions, their list of rejects, labels, calibrations."""
    image_ids, rejected = _rejected_predictions(layout, entry)
    path = layout.table(entry.artifact, entry.stem.replace("part", "_rejects"))
    if path.exists():
        named = tables.column(tables.read_table(path, ["image_id"]), "image_id")
        if not np.array_equal(np.sort(named), image_ids[rejected.all(axis=1)]):
            yield _damage(layout, entry, f"its rejected rows are not those that {path.name} lists")
    for other in listed:
        if other.stem != entry.stem:
            continue
        found = _rejected_rows(layout, other)
        if found is not None and not np.array_equal(found, rejected.ravel()):
            yield _damage(layout, other, "its rejected rows are not those of the predictions")


def _rejected_predictions(
    layout: Layout, entry: Entry
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Ids of a part's images, (N,), and which of their crops have no prediction, (N, M)."""
    reader = ArrayReader(layout.arrays(entry.artifact, entry.stem))
    marks = [np.isnan(reader.read("target_logp", start, stop)) for start, stop in reader.blocks()]
    return reader.read("image_id", 0, reader.num_images), np.concatenate(marks)


def _rejected_rows(layout: Layout, entry: Entry) -> NDArray[np.bool_] | None:
    """Rows (images x crops) that a part marks as rejected; None where its artifact has no marks."""
    if _family(entry) == "calibrated":
        table = tables.read_table(layout.table(entry.artifact, entry.stem), ["action"])
        return np.asarray(tables.column(table, "action") == Action.REJECT)
    if entry.artifact == "soft":
        return np.asarray(np.isnan(SoftPart(layout, entry).max_prob()))
    return None

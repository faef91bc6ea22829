"""The shards of a store, by number: all of them, and made from each other.

A shard is known by the stem of its files. Its place in a list says nothing: where one is missing,
all later ones move up.
"""

from collections.abc import Mapping, Sequence

from store import entries, upstream
from store.check import completeness
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout, part_name


def labelled(layout: Layout, table: ImageTable) -> dict[int, Entry]:
    """Labels of every shard, by its number, checked against crops and images.

    Raises:
        DataError: there are no labels, a shard is missing, or one was made from other images,
            crops or predictions than those that stand beside it.
    """
    found = {name: entries.list_entries(layout, name) for name in ("crops", "soft")}
    if not found["soft"]:
        raise DataError(
            f"{layout.folder('soft')} holds no labels; run `ferkd-pipeline stage compress`"
        )
    total = require_whole(layout, found, len(table))
    return {n: upstream.require_labels(layout, table, total, n)[1] for n in range(total)}


def labelled_by(layout: Layout, shard: int, artifact: str, labels: Entry) -> Entry:
    """A shard's part of a calibration, checked against the labels.

    Raises:
        DataError: it is missing, or was made from other labels.
    """
    overlay = upstream.require(layout, artifact, part_name(shard), "calibrate")
    beside = str(layout.entry("soft", labels.stem))
    upstream.require_fit(layout, overlay, "soft", labels.rows_digest, beside)
    return overlay


def require_whole(layout: Layout, found: Mapping[str, Sequence[Entry]], num_images: int) -> int:
    """Number of shards of a store, of which each of these artifacts must have every one.

    Args:
        layout: the store.
        found: entries by artifact.
        num_images: images of the store.

    Raises:
        DataError: shards are missing, or there is one too many; names them and the command.
    """
    listed = [entry for each in found.values() for entry in each]
    total = completeness.num_shards(listed, num_images)
    for damage in completeness.check(layout, listed, list(found), total, set()):
        raise DataError(f"{damage.file}: {damage.kind}; {damage.remedy} first")
    return total

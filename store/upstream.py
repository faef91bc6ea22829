"""Refusing inputs that do not fit together, with both files and the remedy named."""

from store import entries, images, mixing
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout, part_name


def require(layout: Layout, artifact: str, stem: str, stage: str) -> Entry:
    """The entry of a part that another stage must have made.

    Raises:
        DataError: that part is not complete; names the command that makes it.
    """
    entry = entries.find_entry(layout, artifact, stem)
    if entry is None:
        raise DataError(
            f"{layout.entry(artifact, stem)} is missing; "
            f"run `{entries.stage_command(stage, stem)}` first"
        )
    return entry


def require_fit(layout: Layout, entry: Entry, name: str, wanted: str, other: str) -> None:
    """Check that ``entry`` was made from the input ``name`` of digest ``wanted``.

    Args:
        layout: the store.
        entry: the part that is to be read.
        name: name of one of its recorded inputs.
        wanted: digest that this input has now.
        other: the file that has that digest now, for the message.

    Raises:
        DataError: they do not fit together.
    """
    if entry.lineage.get("inputs", {}).get(name) != wanted:
        path = layout.entry(entry.artifact, entry.stem)
        raise DataError(
            f"{path} was made from other {name} than {other} holds now, or store.num_shards was "
            f"changed; run `{entry.remake}` again"
        )


def require_labelled(layout: Layout, table: ImageTable, start: int, stop: int, stem: str) -> None:
    """Check that the files of images ``start`` to ``stop`` are those that the teacher was shown.

    Only where the shard's predictions are still there: labels alone do not say it.

    Raises:
        DataError: they have other bytes now.
    """
    predictions = entries.find_entry(layout, "predictions", stem)
    if predictions is None:
        return
    shown = table.slice(start, stop).digest(start, "paths", "class_ids", "content_hashes")
    listed = str(layout.table("images", images.STEM))
    require_fit(layout, predictions, "images", shown, listed)
    crops = require(layout, "crops", stem, "sample")
    if mixing.has_mix(crops):
        mixed = mixing.files_digest(table, mixing.partners_of(layout, crops))
        require_fit(layout, predictions, "partners", mixed, listed)


def require_crops(layout: Layout, table: ImageTable, num_shards: int, shard: int) -> Entry:
    """The crops of a shard, checked against the images.

    Raises:
        DataError: they are missing, or were drawn for other images.
    """
    start, stop = images.shard_bounds(len(table), num_shards, shard)
    listed = str(layout.table("images", images.STEM))
    crops = require(layout, "crops", part_name(shard), "sample")
    sampled = table.slice(start, stop).digest(start, "paths", "heights", "widths")
    require_fit(layout, crops, "images", sampled, listed)
    if mixing.has_mix(crops):
        require_fit(layout, crops, "partners", table.sizes_digest, listed)
    return crops


def require_labels(
    layout: Layout, table: ImageTable, num_shards: int, shard: int
) -> tuple[Entry, Entry]:
    """The crops and the labels of a shard, checked against the images and each other.

    Labels are also checked against the predictions, where those are still there.

    Raises:
        DataError: one is missing or was made from others than those that stand beside it.
    """
    stem = part_name(shard)
    start, stop = images.shard_bounds(len(table), num_shards, shard)
    own = table.slice(start, stop)
    listed = str(layout.table("images", images.STEM))
    crops = require_crops(layout, table, num_shards, shard)
    soft = require(layout, "soft", stem, "compress")
    drawn = str(layout.table("crops", stem))
    require_fit(layout, soft, "crops", crops.rows_digest, drawn)
    require_fit(layout, soft, "targets", own.digest(start, "class_ids"), listed)
    predictions = entries.find_entry(layout, "predictions", stem)
    if predictions is not None:
        said = str(layout.entry("predictions", stem))
        require_fit(layout, soft, "predictions", predictions.rows_digest, said)
    return crops, soft

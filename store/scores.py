"""Scores of images, by name: ``scores/NAME.parquet``. A higher score deserves the teacher more.

Shapes: N images.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from store import entries, images, recorded, tables
from store.digest import sha256_json
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout, is_name_of_scores

ARTIFACT = "scores"


def images_digest(table: ImageTable) -> str:
    """Digest of what scores depend on: which images there are, of which classes and contents."""
    return table.digest(0, "paths", "class_ids", "content_hashes")


def labels_digest(listed: Iterable[Entry]) -> str:
    """Digest of all parts of ``soft``, for scores that are made with labels.

    Of what kind they are, too: the same rows may be labels of another temperature.
    """
    parts = sorted(listed, key=lambda entry: entry.stem)
    return sha256_json([[each.stem, each.rows_digest, each.attribute("label")] for each in parts])


def find(layout: Layout, name: str) -> Entry:
    """The entry of the scores of that name.

    Raises:
        DataError: there are none, or their entry is damaged.
    """
    entry = entries.find_entry(layout, ARTIFACT, name) if is_name_of_scores(name) else None
    if entry is None:
        raise DataError(
            f"{layout.entry(ARTIFACT, name)} is missing; name {name} in the section score of "
            "params.yaml and run `ferkd-pipeline stage score` first"
        )
    return entry


def read(layout: Layout, table: ImageTable, name: str) -> tuple[Entry, NDArray[np.float32]]:
    """The scores (N,) of that name in the order of image_id, and their entry; NaN has no score.

    ``table`` holds all images of the store, with their content hashes.

    Raises:
        DataError: there are none, they are damaged, or they are those of other images.
        RetryError: they were published again meanwhile.
    """
    entry = find(layout, name)
    if entry.lineage.get("inputs", {}).get("images") != images_digest(table):
        raise DataError(
            f"{layout.entry(ARTIFACT, name)} holds scores of other images than "
            f"{layout.table('images', images.STEM)} holds now; run `{entry.remake}` again"
        )
    path = layout.table(ARTIFACT, name)
    with recorded.planned(layout, entry):
        rows = tables.read_table(path, ["image_id", "score"])
    ids = tables.column(rows, "image_id")
    if not np.array_equal(ids, np.arange(len(table), dtype=np.int32)):
        raise DataError(
            f"{path} has not one row for each of the {len(table)} images, in order; delete it and "
            f"run `{entry.remake}` again"
        )
    return entry, tables.column(rows, "score").astype(np.float32, copy=False)

"""The label store of images that the teacher never saw, on which thresholds may be chosen."""

from collections.abc import Sequence
from pathlib import Path

from stages.calibrate import fit as fitting
from stages.calibrate.mixed import is_mixed
from stages.calibrate.recipe import Recipe
from stages.calibrate.reliability import Reliability
from stages.calibrate.whole_store import reliability, soft_of
from stages.shared.contract import Progress, Source
from store import entries, images
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout


def validation_crops(
    recipe: Recipe, own: Layout, table: ImageTable, ons: Sequence[str], progress: Progress
) -> dict[str, Reliability] | None:
    """The crops of the validation store that a step names; None without one.

    Raises:
        DataError: it is no store of the same classes, or has no labels.
    """
    root = fitting.validation_root(recipe.steps)
    if root is None:
        return None
    layout, softs = open_validation(recipe.name, root, own, table)
    progress.start(f"validation crops of {recipe.name}", len(softs), "shards")
    return reliability(layout, softs, ons, progress)


def open_validation(
    name: str, root: str, own: Layout, table: ImageTable
) -> tuple[Layout, list[Entry]]:
    """The labels of a store of images that the teacher never saw, of all of its shards.

    Raises:
        DataError: it is not one: missing, incomplete, of other classes or of another teacher, of
            images that this store has too, or of mixed crops.
    """
    layout, key = Layout.beside(Path(root)), f"calibrate.{name}: validation is {root}"
    if not layout.entry("images", images.STEM).exists():
        raise DataError(
            f"{key}, which holds no label store ({layout.entry('images', images.STEM)} is "
            "missing); make one of validation images, see docs/calibration.md"
        )
    others = images.load(layout)
    if others.class_names != table.class_names:
        raise DataError(
            f"{layout.table('images', 'classes')} names other classes than this store; make the "
            "validation store from a folder with the same class folders"
        )
    if shared := len(set(others.content_hashes) & set(table.content_hashes)):
        raise DataError(
            f"{key}, which has {shared:,} of its {len(others):,} images in common with the "
            "training images; set index.images in its parameters to the validation folder"
        )
    listed = entries.list_entries(layout, "soft")
    source = Source(layout, len(listed), Path())
    softs = [soft_of(source, others, shard) for shard in range(len(listed))]
    if not softs:
        raise DataError(
            f"{layout.folder('soft')} holds no labels; run the stages index to compress for the "
            "validation images first"
        )
    if any(is_mixed(layout, soft) for soft in softs):
        raise DataError(
            f"{key}, whose crops are mixed with other images (sample.mix), so that no class is "
            "right for them; make the validation store without"
        )
    _check_teachers(own, layout)
    return layout, softs


def _check_teachers(own: Layout, other: Layout) -> None:
    """Labels of two stores must be one teacher's, as far as predictions still say it."""
    said = []
    for layout in (own, other):
        found = entries.list_entries(layout, "predictions")
        said += [(layout, found[0].lineage.get("inputs", {}).get("teacher"))] if found else []
    if len(said) == 2 and said[0][1] != said[1][1]:
        raise DataError(
            f"{other.folder('predictions')} and {own.folder('predictions')} are of different "
            "teachers; label the validation images with the one of this store"
        )

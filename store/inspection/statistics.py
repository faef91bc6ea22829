"""What a store's labels say, counted in one pass: FerKD's Table 1, the teacher, classes, actions.

Parts are read in several threads, a block of rows at a time, and their sums added in order: memory
does not grow with the store, and a store gives the same figures however it is cut into parts.
"""

from collections.abc import Sequence
from pathlib import Path

from store import entries, images, scan
from store.codecs import LabelSpec
from store.entries import Entry
from store.errors import DataError, ParamsError
from store.inspection import shards, sizes, statistics_tables
from store.inspection.statistics_sums import PartSums, Sums, add
from store.inspection.statistics_tables import Statistics
from store.layout import Layout, calibrated, list_artifacts
from store.progress import Progress
from store.soft_part import SoftPart

_UNDEFINED = {
    "logits": [
        "labels of kind logits are raw outputs of a projection head, which has no classes: they "
        "have no maximum probability, no accuracy and no entropy"
    ]
}


def statistics(root: Path, calibrations: Sequence[str], progress: Progress) -> Statistics:
    """Count the labels of the store at ``root``, and what these calibrations did to them.

    Raises:
        ParamsError: there is no calibration of that name; says which there are.
        DataError: shards are missing, damaged, or do not fit together or the images.
    """
    layout, names = Layout.beside(root), list(dict.fromkeys(calibrations))
    check_calibrations(layout, names)
    table = images.load(layout, with_hashes=False)
    soft = shards.labelled(layout, table)
    for name in names:
        for shard, entry in soft.items():
            shards.labelled_by(layout, shard, calibrated(name), entry)
    listed = list(soft.values())
    label = one_label(layout, listed)
    progress.start("stats", sum(entry.rows for entry in listed), "crops")
    counters = [PartSums(SoftPart(layout, entry), table.num_classes, names) for entry in listed]
    sums: Sums = {}
    for entry, found in zip(listed, scan.in_order(PartSums.run, counters), strict=True):
        sums = add(sums, found)
        progress.advance(entry.rows)
    num_crops = sum(entry.rows for entry in listed)
    has_classes = label.kind != "logits"
    return Statistics(
        root=str(root),
        label=label,
        num_shards=len(listed),
        num_images=int(sums["images"].sum()),
        num_crops=num_crops,
        num_rejected=int(sums["rejected"]),
        ranges=statistics_tables.ranges(sums["ranges"]) if has_classes else [],
        teacher=statistics_tables.teacher(sums) if has_classes else [],
        classes=statistics_tables.classes(sums, table, names),
        calibrations={name: statistics_tables.actions(sums, name) for name in names},
        reference_bytes_per_crop=sizes.reference_bytes_per_crop(label),
        reference=sizes.reference_sizes(label, num_crops),
        columns=sizes.column_sizes(layout, [*entries.list_entries(layout, "crops"), *listed]),
        undefined=_UNDEFINED.get(label.kind, []),
    )


def check_calibrations(layout: Layout, names: Sequence[str]) -> None:
    """Refuse calibrations that the store does not have.

    Raises:
        ParamsError: says which there are.
    """
    artifacts = list_artifacts(layout)
    known = [name.split("/", 1)[1] for name in artifacts if name.startswith("calibrated/")]
    for name in names:
        if name not in known:
            raise ParamsError(
                f"calibration {name}: {layout.root} has no calibration of that name; "
                f"it has {', '.join(known) or 'none'}"
            )


def one_label(layout: Layout, listed: Sequence[Entry]) -> LabelSpec:
    """The kind of label that all parts have.

    Raises:
        DataError: parts differ in it.
    """
    kinds = [SoftPart(layout, entry).spec for entry in listed]
    for entry, kind in zip(listed, kinds, strict=True):
        if kind != kinds[0]:
            raise DataError(
                f"{layout.entry('soft', entry.stem)} holds other labels ({kind}) than "
                f"{listed[0].stem} ({kinds[0]}); run `{entry.remake}` again"
            )
    return kinds[0]

"""Whether parts of a store fit together, all bytes being as recorded."""

import json
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from store import images, mixing, scores, tables
from store.arrays import ArrayReader
from store.check.completeness import shard_of
from store.check.damage import UNREADABLE, Damage, of_entry, part_of, remake_command
from store.entries import Entry
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


def check_entries(
    layout: Layout, listed: list[Entry], table: ImageTable | None, num_shards: int
) -> Iterator[Damage]:
    """Parts that were made from others than those that stand beside them; reads no rows.

    ``table`` holds the images, None where they cannot be read.
    """
    yield from _check_parameters(layout, listed)
    yield from _check_lineage(layout, listed)
    if table is not None:
        yield from _check_images(layout, listed, table, num_shards)


def check_rejects(layout: Layout, listed: list[Entry]) -> Iterator[Damage]:
    """Unusable crops must agree in the parts of one shard: with the predictions, else the labels.

    Reads one array or column of each part.
    """
    sources = {entry.artifact: entry for entry in listed}
    source = sources.get("predictions") or sources.get("soft")
    if source is None:
        return
    try:
        rejected = _rejected_rows(layout, source)
        if source.artifact == "predictions":
            yield from _check_list(layout, source, rejected)
    except UNREADABLE as error:
        yield of_entry(layout, source, _not_comparable(error))
        return
    for other in listed:
        try:
            found = _rejected_rows(layout, other)
        except UNREADABLE as error:
            yield of_entry(layout, other, _not_comparable(error))
            continue
        if found is not None and rejected is not None and not np.array_equal(found, rejected):
            kind = f"its rejected rows are not those of {source.artifact}/{source.stem}"
            yield of_entry(layout, other, kind)


def _not_comparable(error: BaseException) -> str:
    return f"cannot be compared ({' '.join(str(error).split())})"


def _family(entry: Entry) -> str:
    return entry.artifact.split("/")[0]


def _recorded(entry: Entry, name: str) -> object:
    inputs = entry.lineage.get("inputs")
    return inputs.get(name) if isinstance(inputs, dict) else None


def _check_parameters(layout: Layout, listed: list[Entry]) -> Iterator[Damage]:
    """Parts that were made with other parameters than most parts of their artifact."""
    for artifact in dict.fromkeys(entry.artifact for entry in listed):
        if artifact == scores.ARTIFACT:
            continue  # each has a name and parameters of its own
        parts = [entry for entry in listed if entry.artifact == artifact]
        said = [_parameters(entry) for entry in parts]
        usual = max(said, key=lambda each: (said.count(each), each))
        for entry, own in zip(parts, said, strict=True):
            if own != usual:
                other = sorted(name for name, _ in set(own) ^ set(usual))
                names = ", ".join(dict.fromkeys(other))
                kind = f"made with other parameters ({names}) than {artifact} elsewhere"
                remedy = f"run `{remake_command(artifact)}`"
                path = str(layout.entry(artifact, entry.stem))
                yield Damage(path, kind, remedy, part_of(entry))


def _parameters(entry: Entry) -> tuple[tuple[str, str], ...]:
    """Parameters and revision of a part's stage, spelled; sorted by name."""
    params = entry.lineage.get("params")
    named = params if isinstance(params, dict) else {}
    spelled = {name: json.dumps(value, sort_keys=True) for name, value in named.items()}
    spelled["revision"] = json.dumps(entry.lineage.get("revision"))
    return tuple(sorted(spelled.items()))


def _check_lineage(layout: Layout, listed: list[Entry]) -> Iterator[Damage]:
    """Parts that were made from other parts than those that stand beside them."""
    digests = {(entry.artifact, entry.stem): entry.rows_digest for entry in listed}
    for entry in listed:
        for source in _MADE_FROM.get(_family(entry), ()):
            now = digests.get((source, entry.stem))
            if now is not None and now != _recorded(entry, source):
                yield _changed(layout, entry, f"made from other {source}")


def _changed(layout: Layout, entry: Entry, kind: str) -> Damage:
    """A part whose inputs changed: its stage sees that by itself."""
    # A calibration is fitted to all labels: one shard of it alone would be refused.
    stem = "" if _family(entry) == "calibrated" else entry.stem
    remedy = f"run `{remake_command(entry.artifact, stem)}`"
    return Damage(str(layout.entry(entry.artifact, entry.stem)), kind, remedy, part_of(entry))


def _check_images(
    layout: Layout, listed: list[Entry], table: ImageTable, num_shards: int
) -> Iterator[Damage]:
    """Parts that were made from other images than those of the table of images."""
    yield from _check_scores(layout, listed, table)
    for entry in listed:
        shard = shard_of(entry.stem)
        if entry.artifact not in _IMAGE_COLUMNS or shard is None or shard >= num_shards:
            continue
        name, columns = _IMAGE_COLUMNS[entry.artifact]
        if _recorded(entry, name) != _images_digest(table, num_shards, shard, columns):
            yield _changed(layout, entry, f"made from other {name}")
        elif not _has_partners_of_now(layout, entry, listed, table):
            yield _changed(layout, entry, "mixed with other images")


def _has_partners_of_now(
    layout: Layout, entry: Entry, listed: list[Entry], table: ImageTable
) -> bool:
    """Whether crops, or predictions of them, were made from what they are mixed with now.

    Of predictions it reads a column of their crops; where these cannot be read, that is found
    elsewhere.
    """
    recorded = _recorded(entry, "partners")
    if entry.artifact == "crops":
        return recorded == (table.sizes_digest if mixing.has_mix(entry) else None)
    beside = (each for each in listed if (each.artifact, each.stem) == ("crops", entry.stem))
    crops = next(beside, None)
    if entry.artifact != "predictions" or crops is None or not mixing.has_mix(crops):
        return True
    try:
        return recorded == mixing.files_digest(table, mixing.partners_of(layout, crops))
    except UNREADABLE:
        return True


def _check_scores(layout: Layout, listed: list[Entry], table: ImageTable) -> Iterator[Damage]:
    """Scores of other images, or made with other labels than those that stand beside them."""
    found = [entry for entry in listed if entry.artifact == scores.ARTIFACT]
    labels = [entry for entry in listed if entry.artifact == "soft"]
    images_now = scores.images_digest(table) if found else None
    for entry in found:
        if _recorded(entry, "images") != images_now:
            yield _changed(layout, entry, "made from other images")
        used = _recorded(entry, "labels")
        if used is not None and labels and used != scores.labels_digest(labels):
            yield _changed(layout, entry, "made from other soft")


def _images_digest(
    table: ImageTable, num_shards: int, shard: int, columns: tuple[str, ...]
) -> str | None:
    if num_shards > len(table):
        return None
    start, stop = images.shard_bounds(len(table), num_shards, shard)
    return table.slice(start, stop).digest(start, *columns)


def _check_list(
    layout: Layout, entry: Entry, rejected: NDArray[np.bool_] | None
) -> Iterator[Damage]:
    """The list of unusable images must name those that the predictions mark."""
    path = layout.table(entry.artifact, entry.stem.replace("part", "_rejects"))
    if rejected is None or not path.exists():
        return
    reader = ArrayReader(layout.arrays(entry.artifact, entry.stem))
    image_ids = reader.read("image_id", 0, reader.num_images)
    marked = image_ids[rejected.reshape(len(image_ids), -1).all(axis=1)]
    named = tables.column(tables.read_table(path, ["image_id"]), "image_id")
    if not np.array_equal(np.sort(named), marked):
        kind = f"its rejected rows are not those that {path.name} lists"
        yield of_entry(layout, entry, kind)


def _rejected_rows(layout: Layout, entry: Entry) -> NDArray[np.bool_] | None:
    """Rows (images x crops) that a part marks as rejected; None where its artifact has no marks."""
    family = _family(entry)
    if family == "predictions":
        reader = ArrayReader(layout.arrays(entry.artifact, entry.stem))
        if "logit" in reader.names:
            logits = (reader.read("logit", *block) for block in reader.blocks())
            return _without_logits(logits)
        if "target_logp" not in reader.names:
            return None
        found = [np.isnan(reader.read("target_logp", *block)) for block in reader.blocks()]
        return np.concatenate(found).ravel()
    if family == "calibrated":
        table = tables.read_table(layout.table(entry.artifact, entry.stem), ["action"])
        return np.asarray(tables.column(table, "action") == Action.REJECT)
    if family == "soft":
        part = SoftPart(layout, entry)
        if part.spec.kind == "logits":
            return _without_logits(stored for _, _, stored in part.dense_blocks())
        return np.asarray(np.isnan(part.max_prob()))
    return None


def _without_logits(blocks: Iterable[NDArray[np.floating]]) -> NDArray[np.bool_]:
    """Rows whose outputs (images, M, D) are NaN."""
    return np.concatenate([np.isnan(block[..., 0]).ravel() for block in blocks])

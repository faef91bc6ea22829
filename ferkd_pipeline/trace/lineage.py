"""What rows of a store were made from, followed upward through the digests that entries recorded.

A lineage is JSON: by artifact (``calibrated/ferkd``, ``scores/NAME``, ``soft``, ``predictions``,
``crops``, ``images``) the digest of its rows and, as long as the store still holds these rows, what
made them; and ``teachers``, a list. It holds no paths and no times.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from stages.shared.contract import Json
from store import entries, images, scores
from store.digest import sha256_json
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout, calibrated

Lineage = dict[str, Json]

_PARTED = ("soft", "predictions", "crops")
_SEEN = {
    "soft": ("targets", ("class_ids",)),
    "predictions": ("images", ("paths", "class_ids", "content_hashes")),
    "crops": ("images", ("paths", "heights", "widths")),
}
"""By artifact: under which name an entry has the digest of its images, and of which columns."""

_TOLD = {"soft": ("num_crops", "label"), "crops": ("num_crops",)}
"""Attributes of entries that say how to read the rows."""
_COUNTED = {"images": ("num_images", "num_classes")}
_DIGEST_LETTERS = 32
_OTHER: Lineage = {"rows_digest": None, "are_other": True}
"""Of images that are not those that the store lists now: only digests of some columns are known."""


def lineage_of_labels(layout: Layout, calibration: str | None) -> Lineage:
    """What the labels that a student learns from were made of, for its card.

    Raises:
        DataError: there are no such labels, or an entry is damaged.
    """
    return lineage_of(layout, "soft" if calibration is None else calibrated(calibration))


def lineage_of(layout: Layout, artifact: str, stems: Sequence[str] | None = None) -> Lineage:
    """What an artifact, or some parts of it, was made of; it stands first itself.

    Raises:
        DataError: there is no such artifact or part, or an entry is damaged.
    """
    listed = _find(layout, artifact, stems)
    if not listed or None in listed:
        what = "/".join([artifact, *([stems[0]] if stems else [])])
        raise DataError(f"{layout.root} holds no {what} that is complete; run its stage first")
    return _Search(layout).follow(artifact, [entry for entry in listed if entry is not None])


def digest_now(layout: Layout, artifact: str, stems: Sequence[str] | None = None) -> str | None:
    """Digest of the rows that the store holds of an artifact now, as lineages spell it."""
    if artifact.startswith("scores/"):
        artifact, stems = "scores", [artifact.split("/", 1)[1]]
    if artifact == "images":
        stems = None
    listed = _find(layout, artifact, stems)
    digests = [None if entry is None else entry.rows_digest for entry in listed]
    return _joined(digests) if any(digests) else None


def _find(layout: Layout, artifact: str, stems: Sequence[str] | None) -> list[Entry | None]:
    if stems is None:
        return [*entries.list_entries(layout, artifact)]
    return [entries.find_entry(layout, artifact, stem) for stem in stems]


def _joined(digests: Sequence[str | None]) -> str:
    """One digest of the rows of all parts; of a single part, its own."""
    one = digests[0] if len(digests) == 1 else None
    return sha256_json([*digests])[:_DIGEST_LETTERS] if one is None else one


class _Search:
    """One way up from an artifact to the images."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._found: Lineage = {}
        self._images_fit = True

    def follow(self, artifact: str, listed: list[Entry]) -> Lineage:
        """Add these entries of one artifact and what they were made from."""
        self._follow(artifact, listed)
        if "images" in self._found:
            self._found["images"] = self._found.pop("images")  # last, as in the chain
        return self._found

    def _follow(self, artifact: str, listed: list[Entry]) -> None:
        self._found[artifact] = _record(artifact, listed)
        inputs = [_inputs(entry) for entry in listed]
        for name, wanted in (inputs[0].get("scores") or {}).items():
            now = entries.find_entry(self._layout, "scores", name)
            is_same = now is not None and now.rows_digest == wanted
            known = _record("scores", [now]) if now is not None and is_same else None
            self._found[f"scores/{name}"] = known or {"rows_digest": wanted}
        if artifact == "predictions":
            self._found["teachers"] = _teachers(listed[0])
        stems = [entry.stem for entry in listed]
        for name in _PARTED:
            wanted = [each.get(name) for each in inputs]
            if name not in self._found and any(wanted):
                self._compare(name, wanted, _find(self._layout, name, stems))
        kind = artifact.split("/")[0]
        if kind in _SEEN:
            self._compare_images(kind, listed)
        elif kind == "scores":
            self._compare_labels([each["labels"] for each in inputs if each.get("labels")])
            whole = scores.images_digest(self._table)
            self._say_images(all(each.get("images") == whole for each in inputs))
        elif kind == "rejects":
            self._say_images(inputs[0].get("images") == digest_now(self._layout, "images"))

    def _compare(self, name: str, wanted: list[Any], now: list[Entry | None]) -> None:
        """Follow an input further where the store still holds the rows that were read."""
        there = [entry for entry in now if entry is not None]
        if [entry.rows_digest for entry in there] == wanted:
            self._follow(name, there)
        else:
            self._found[name] = {"rows_digest": _joined(wanted)}

    def _compare_labels(self, wanted: list[str]) -> None:
        """The labels that scores were made with, of those that need any."""
        now = entries.list_entries(self._layout, "soft")
        if wanted and now and {scores.labels_digest(now)} == {*wanted}:
            self._follow("soft", now)
        elif wanted:
            self._found["soft"] = {"rows_digest": wanted[0][:_DIGEST_LETTERS]}

    def _compare_images(self, artifact: str, listed: list[Entry]) -> None:
        name, columns = _SEEN[artifact]
        for entry in listed:
            bounds = self._bounds(int(entry.stem.removeprefix("part-")))
            self._say_images(_inputs(entry).get(name) == self._digest(*bounds, columns))

    def _say_images(self, fit: bool) -> None:
        self._images_fit = self._images_fit and fit
        entry = entries.find_entry(self._layout, "images", images.STEM)
        is_known = self._images_fit and entry is not None
        self._found["images"] = _record("images", [entry]) if is_known and entry else {**_OTHER}

    def _bounds(self, shard: int) -> tuple[int, int]:
        counts = (len(entries.entry_paths(self._layout, name)) for name in _PARTED)
        num_shards = max(*counts, shard + 1)
        return images.shard_bounds(len(self._table), num_shards, shard)

    def _digest(self, start: int, stop: int, columns: tuple[str, ...]) -> str:
        return self._table.slice(start, stop).digest(start, *columns)

    @cached_property
    def _table(self) -> ImageTable:
        return images.load(self._layout)


def _inputs(entry: Entry) -> dict[str, Any]:
    found = entry.lineage.get("inputs")
    return found if isinstance(found, dict) else {}


def _record(artifact: str, listed: list[Entry]) -> Json:
    """What the entries say that made them; parts that differ in it are told."""
    first = listed[0]
    record: dict[str, Json] = {
        "rows_digest": _joined([entry.rows_digest for entry in listed]),
        "rows": sum(entry.rows for entry in listed),
        "revision": first.lineage.get("revision"),
        "params": first.lineage.get("params"),
    }
    record |= {name: first.attributes.get(name) for name in _TOLD.get(artifact, ())}
    record |= {name: first.numbers.get(name) for name in _COUNTED.get(artifact, ())}
    if artifact.startswith("calibrated/"):
        record["fit"] = _inputs(first).get("steps")
    if any(entry.lineage.get("params") != record["params"] for entry in listed):
        record["parts_differ"] = True
    return record


def _teachers(predictions: Entry) -> list[Json]:
    """Each teacher's name, arguments, digest of its weights, pixels and share of the average."""
    inputs, params = _inputs(predictions), predictions.lineage.get("params") or {}
    ensemble = inputs.get("ensemble")
    if isinstance(ensemble, dict):
        return [*ensemble.get("members", [])]
    named = params.get("teacher")
    known = dict(named) if isinstance(named, dict) else {}
    return [{**known, "weights": inputs.get("teacher"), "pixels": inputs.get("pixels")}]

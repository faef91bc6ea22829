"""The stage score: images (and labels, for some estimators) -> named scores, one for each image.

What is complete under its key is left alone; scores of names that params.yaml no longer has are
deleted. Proxies with equal settings are trained once a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stages.score import core, influence, watchers
from stages.score.config import (
    Config,
    Disagreement,
    El2n,
    Forgetting,
    Influence,
    Loss,
    Proxy,
    Random,
    Settings,
    TracIn,
)
from stages.score.labels import TeacherLabels
from stages.score.proxies import Watcher, train
from stages.shared.contract import Json, Progress, Report
from stages.shared.training.evaluation import EvaluationSet, read_class_folder
from store import entries, lock, scores, tables
from store.atomic import remove
from store.digest import canonical_json, sha256_json
from store.entries import Entry
from store.images import ImageTable
from store.layout import FORMAT_VERSION, Layout
from store.parts import PartWriter
from store.schema import SCORES

REVISION = 1
"""Raised when the same parameters would give other scores."""

ARTIFACT = scores.ARTIFACT


@dataclass(frozen=True, slots=True)
class Inputs:
    """What images are judged by."""

    images: ImageTable
    """All training images."""
    images_folder: Path
    """Folder that the table's paths are relative to."""
    labels: tuple[Entry, ...] = ()
    """Parts of ``soft`` of all shards, in order; needed by the estimator disagreement alone."""
    read: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """By name of scores: digests of what else they depend on (evaluation, weights, device)."""


class _Watcher(Watcher, Protocol):
    def scores(self) -> NDArray[np.float64]:
        """(N,), NaN where there is none."""


def writers(config: Config, inputs: Inputs, output: Layout) -> dict[str, PartWriter]:
    """Return the writer of each of the scores, whose key says what they are made of."""
    images = scores.images_digest(inputs.images)
    found = {}
    for name, settings in config.root.items():
        read: dict[str, Json] = {"images": images, **inputs.read.get(name, {})}
        if isinstance(settings, Disagreement):
            read["labels"] = scores.labels_digest(inputs.labels)
        lineage = {"revision": REVISION, "params": settings.params(), "inputs": read}
        key = sha256_json({"format": FORMAT_VERSION, "stage": "score", **lineage})
        found[name] = PartWriter(output, ARTIFACT, name, "score", key, lineage)
    return found


def run(
    config: Config, inputs: Inputs, output: Layout, progress: Progress, *, force: bool = False
) -> Report:
    """Make the scores that are not complete (with ``force`` all), and publish each when it is.

    Raises:
        ParamsError: a library is missing, or a network, optimizer or device cannot be had.
        DataError: an evaluation folder does not fit, no image can be read, or a file beside the
            scores is not theirs.
        ShardError: the training of a proxy diverged.
        RetryError: another process writes the same scores.
    """
    by_name = writers(config, inputs, output)
    todo = {
        name: settings
        for name, settings in config.root.items()
        if force or _why_incomplete(by_name[name]) is not None
    }
    making = _Making(todo, inputs, by_name)
    _remove_others(output, by_name)
    making.run(progress)
    entries.write_manifest(output, ARTIFACT)
    made = {name: scores.find(output, name).numbers for name in by_name}
    return Report({**made}, _lines(config, made, set(todo)), making.warnings())


def _why_incomplete(writer: PartWriter) -> str | None:
    return entries.why_incomplete(writer.layout, writer.artifact, writer.stem, writer.key)


def _remove_others(output: Layout, wanted: Mapping[str, PartWriter]) -> None:
    """Delete scores that params.yaml does not name: they would look as if they were of use.

    Raises:
        DataError: a file named like their entry is none: it may be somebody's.
    """
    paths = entries.entry_paths(output, ARTIFACT)
    others = [path for path in paths if path.stem.removeprefix("_") not in wanted]
    for entry in [entries.read_of(ARTIFACT, path) for path in others]:
        with lock.hold(output.lock(ARTIFACT, entry.stem)):
            entries.withdraw(output, ARTIFACT, entry.stem)
            if output.table(ARTIFACT, entry.stem).name in entry.files:
                remove(output.table(ARTIFACT, entry.stem))


class _Making:
    """The scores that are to be made: each has a watcher, and waits for its proxies."""

    def __init__(
        self, todo: Mapping[str, Settings], inputs: Inputs, by_name: Mapping[str, PartWriter]
    ) -> None:
        """Check everything that can be checked before the first training."""
        self._todo, self._inputs, self._writers = todo, inputs, by_name
        for name, settings in todo.items():
            if isinstance(settings, Influence | TracIn):
                influence.require_library(name)
        self._watchers = {
            name: self._watcher(name, settings)
            for name, settings in todo.items()
            if not isinstance(settings, Random)
        }
        self._proxies: dict[bytes, tuple[Proxy, list[str]]] = {}
        for name, settings in todo.items():
            for proxy in _proxies(settings):
                key = canonical_json([proxy.params(), proxy.model.weights])
                self._proxies.setdefault(key, (proxy, []))[1].append(name)
        self._reasons: dict[int, str] = {}

    def run(self, progress: Progress) -> None:
        """Train the proxies one after the other; publish scores as soon as they are whole."""
        for name, settings in self._todo.items():
            if isinstance(settings, Random):
                self._publish(name, core.random_scores(len(self._inputs.images), settings.seed))
        waiting = {name: len(_proxies(settings)) for name, settings in self._todo.items()}
        for number, (proxy, names) in enumerate(self._proxies.values(), start=1):
            own: list[Watcher] = [self._watchers[name] for name in names]
            label = f"proxy {number} of {len(self._proxies)}"
            inputs = self._inputs
            self._reasons |= train(proxy, inputs.images, inputs.images_folder, own, progress, label)
            for name in names:
                waiting[name] -= 1
                if not waiting[name]:
                    self._publish(name, self._watchers.pop(name).scores())

    def warnings(self) -> tuple[str, ...]:
        """What is wrong with images, in one sentence."""
        if not self._reasons:
            return ()
        row, reason = min(self._reasons.items())
        path = self._inputs.images.paths[row]
        return (
            f"{len(self._reasons)} images could not be read and have no score; the first is "
            f"{path}: {reason}",
        )

    def _watcher(self, name: str, settings: Settings) -> _Watcher:
        images = self._inputs.images
        targets = images.class_ids.astype(np.int64)
        if isinstance(settings, Influence | TracIn):
            writer = self._writers[name]
            work = writer.layout.resumable("score", writer.key)
            queries = self._queries(settings.evaluation)
            return influence.Influences(settings, len(images), queries, work)
        if isinstance(settings, El2n):
            return watchers.el2n(settings, targets)
        if isinstance(settings, Forgetting):
            return watchers.Forgets(settings, targets)
        if isinstance(settings, Disagreement):
            labels = self._inputs.labels
            means = TeacherLabels(self._writers[name].layout, labels, len(images))
            return watchers.disagreement(means, len(images))
        assert isinstance(settings, Loss)
        return watchers.loss(targets)

    def _queries(self, folder: str | None) -> EvaluationSet | None:
        if folder is None:
            return None
        return read_class_folder(Path(folder).name, Path(folder), self._inputs.images.class_names)

    def _publish(self, name: str, found: NDArray[np.float64]) -> None:
        writer, values = self._writers[name], found.astype(np.float32)
        ids = np.arange(len(values), dtype=np.int32)
        table = tables.make_table(SCORES, {"image_id": ids, "score": values})
        with lock.hold(writer.layout.lock(ARTIFACT, name)):
            writer.publish_table(table, core.summary(values))


def _proxies(settings: Settings) -> Sequence[Proxy]:
    """The proxies that scores wait for."""
    if isinstance(settings, Random):
        return []
    count = settings.proxies if isinstance(settings, El2n) else 1
    first = settings.proxy
    return [first.model_copy(update={"seed": first.seed + number}) for number in range(count)]


def _lines(
    config: Config, made: Mapping[str, Mapping[str, Json]], new: set[str]
) -> tuple[str, ...]:
    """One line for each of the scores."""
    lines = []
    for name, numbers in made.items():
        quantiles = numbers.get("quantiles")
        spread = ""
        if isinstance(quantiles, dict):
            spread = f", median {quantiles['0.5']:g}, from {quantiles['0']:g} to {quantiles['1']:g}"
        kept = "" if name in new else " (complete already)"
        estimator = config.root[name].estimator
        lines.append(f"{name}: {estimator} of {numbers['num_scored']:,} images{spread}{kept}")
    return tuple(lines)

"""The stage index: a folder of images -> images, classes and rejects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.index import core
from stages.index.config import Config
from stages.index.core import Scan
from stages.shared.contract import Json, Progress, Report
from store import entries, images, lock, tables
from store.digest import rows_digest, sha256_json
from store.entries import Entry
from store.images import ImageTable
from store.layout import FORMAT_VERSION, Layout
from store.parts import PartWriter
from store.schema import REJECTS

REVISION = 1
"""Raised when the same images would give other rows."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The folder of training images, one folder a class."""

    folder: Path


def run(config: Config, inputs: Inputs, output: Layout, progress: Progress) -> Report:
    """Decode every image once and publish ``images`` and ``rejects``.

    Raises:
        DataError: the folder has no classes, a class has no files, or no image is usable.
        ShardError: more files are unusable than ``max_reject_share`` allows.
        RetryError: another process indexes into the same store, or the file system fails.
    """
    with lock.hold(output.lock("images", images.STEM)):
        scan = core.scan(inputs.folder, config, progress)
        numbers: dict[str, Json] = {
            "num_images": len(scan.paths),
            "num_classes": len(scan.classes),
            "num_rejects": len(scan.rejects),
            "num_ignored_files": sum(scan.num_ignored.values()),
        }
        indexed = _publish_images(output, config, scan, numbers)
        _publish_rejects(output, config, scan, indexed)
    return Report(numbers, *_say(inputs.folder, scan, output))


def _writer(
    output: Layout, artifact: str, stem: str, config: Config, inputs: dict[str, Json]
) -> PartWriter:
    # The images are the input, so no key could tell beforehand whether the work is needed; this
    # one says afterwards which files and settings made the rows.
    params: dict[str, Json] = {"max_pixels": config.max_pixels}
    lineage = {"revision": REVISION, "params": params, "inputs": inputs}
    key = sha256_json({"format": FORMAT_VERSION, "stage": "index", **lineage})
    return PartWriter(output, artifact, stem, "index", key, lineage)


def _publish_images(output: Layout, config: Config, scan: Scan, numbers: dict[str, Json]) -> Entry:
    listed = ImageTable(
        np.array(scan.paths, dtype=object),
        scan.class_ids,
        scan.heights,
        scan.widths,
        np.array(scan.content_hashes, dtype=object),
        tuple(scan.classes),
    )
    table, classes = images.image_tables(listed, scan.num_bytes)
    files = {"path": np.array(scan.paths), "content_hash": np.array(scan.content_hashes)}
    writer = _writer(output, "images", images.STEM, config, {"files": rows_digest(files)})
    entry = writer.publish_table(table, numbers, beside={"classes": classes})
    entries.write_manifest(output, "images")
    return entry


def _publish_rejects(output: Layout, config: Config, scan: Scan, indexed: Entry) -> None:
    table = tables.make_table(
        REJECTS,
        {
            "path": [reject.path for reject in scan.rejects],
            "reason": [reject.reason for reject in scan.rejects],
        },
    )
    writer = _writer(output, "rejects", "index", config, {"images": indexed.rows_digest})
    writer.publish_table(table, {"num_rejects": len(scan.rejects)})
    entries.write_manifest(output, "rejects")


def _say(folder: Path, scan: Scan, output: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    lines = [
        f"{len(scan.paths):,} images of {len(scan.classes)} classes in {folder}",
    ]
    warnings: list[str] = []
    if scan.rejects:
        first = scan.rejects[0]
        warnings.append(
            f"{len(scan.rejects)} image files cannot be used, listed in "
            f"{output.table('rejects', 'index')}; the first is {first.path}: {first.reason}"
        )
    if scan.num_ignored:
        kinds = ", ".join(f"{count} {ext}" for ext, count in sorted(scan.num_ignored.items()))
        lines.append(f"files that are not images were passed over: {kinds}")
    if scan.empty_classes:
        names = ", ".join(scan.empty_classes[:5])
        warnings.append(f"classes without a usable image: {names}")
    return tuple(lines), tuple(warnings)

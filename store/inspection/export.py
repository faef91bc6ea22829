"""Writing a selection of a store's rows to one CSV, Parquet or Arrow file."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from store import entries, images, scan, scores, tables
from store.atomic import replace_file
from store.errors import DataError, ParamsError
from store.images import ImageTable
from store.inspection import joined
from store.inspection.selection import Selection, of_actions, of_max_prob
from store.inspection.statistics import check_calibrations, one_label
from store.layout import Layout, list_artifacts
from store.progress import Progress
from store.soft_part import SoftPart

SUFFIXES = (".csv", ".parquet", ".arrow", ".feather", ".ipc")
"""Of files that can be written; the last three are Arrow's own format (Feather 2)."""

_WHOLE = {"images": ("images", "images"), "rejects": ("rejects", "index")}
"""Artifacts that are one table: folder and stem."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What is to be written, checked: nothing was read but entries and the images."""

    layout: Layout
    artifact: str
    """``labels`` for all of a crop's columns, or an artifact for its own."""
    columns: tuple[str, ...]
    selection: Selection
    table: ImageTable
    source: joined.Joined | None
    """Of everything but the whole tables, `images` and `rejects`."""

    def blocks(self, progress: Progress) -> Iterator[pa.Table]:
        """The rows, a block at a time.

        Raises:
            ParamsError: the selection names what does not exist.
            DataError: a file is missing, damaged, or of other crops.
        """
        found = self._whole() if self.source is None else self._crops(self.source, progress)
        left = self.selection.limit
        for block in found:
            rows = block if left is None else block.slice(0, left)
            left = None if left is None else left - rows.num_rows
            yield rows
            if left == 0:
                return

    def _whole(self) -> Iterator[pa.Table]:
        folder, stem = _WHOLE.get(self.artifact) or self.artifact.split("/")
        if folder == scores.ARTIFACT:  # read by its own reader: it fits the images, row by row
            rows = _scored(self.table, scores.read(self.layout, self.table, stem)[1])
        else:
            rows = tables.read_table(self.layout.table(folder, stem)).replace_schema_metadata(None)
        if "class_id" in rows.column_names:
            names = joined.class_names_of(self.table, rows.column("class_id"))
            rows = rows.append_column("class_name", names)
            rows = rows.filter(pa.array(self.selection.of_images(self.table)))
        joined.check_columns(self.columns, rows.column_names, self.artifact)
        yield rows.select(list(self.columns) or rows.column_names)

    def _crops(self, source: joined.Joined, progress: Progress) -> Iterator[pa.Table]:
        chosen, bounds = self.selection.of_images(self.table), self.selection.bounds()
        shards = self.selection.of_shards(len(source.soft), chosen)
        part = SoftPart(self.layout, source.soft[0])
        precision = part.entry.attributes.get("precision", part.spec.precision)
        largest = "prob_0" if part.spec.max_is_prob_0 else "max_prob"
        extra = [largest] if bounds else []
        extra += ["action"] if self.selection.actions else []
        columns = list(dict.fromkeys([*self.columns, "image_id", *extra]))
        progress.start("export", sum(source.soft[shard].rows for shard in shards), "crops")
        yield source.empty(self.columns)
        for shard in shards:
            for block in source.rows(shard, columns):
                mask = chosen[tables.column(block, "image_id")]
                if bounds:
                    mask &= of_max_prob(tables.column(block, largest), bounds, precision)
                if self.selection.actions:
                    mask &= of_actions(block, self.selection.actions)
                rows = block if mask.all() else block.filter(pa.array(mask))
                progress.advance(block.num_rows)
                yield rows.select(list(self.columns))


def plan_export(
    root: Path,
    artifact: str,
    columns: Sequence[str],
    selection: Selection,
    calibration: str | None,
) -> ExportPlan:
    """Check what is asked for.

    Raises:
        ParamsError: an option names what does not exist, or does not fit the artifact.
        DataError: the store lacks what is asked for.
    """
    layout = Layout.beside(root)
    if artifact.startswith("calibrated/"):
        named = artifact.split("/", 1)[1]
        if calibration not in (None, named):
            raise ParamsError(
                f"calibration {calibration}: artifact {artifact} is another one; leave one out"
            )
        calibration = named
    check_calibrations(layout, [] if calibration is None else [calibration])
    listed = [name for name in list_artifacts(layout) if name != "predictions"]
    scored = [entry.stem for entry in entries.list_entries(layout, scores.ARTIFACT)]
    listed = [name for name in listed if name != scores.ARTIFACT]
    known = ["labels", *listed, *(f"{scores.ARTIFACT}/{name}" for name in scored)]
    if artifact not in known:
        raise ParamsError(f"artifact {artifact}: must be one of {', '.join(known)}")
    if selection.actions and calibration is None:
        raise ParamsError("action: needs a calibration, whose actions they are")
    of_scores = artifact.startswith(f"{scores.ARTIFACT}/")
    table = images.load(layout, with_hashes=of_scores)
    if artifact in _WHOLE or of_scores:
        _check_whole(artifact, selection, calibration)
        return ExportPlan(layout, artifact, tuple(columns), selection, table, None)
    source = joined.open_joined(layout, table, calibration)
    label = one_label(layout, list(source.soft.values()))
    if selection.max_prob is not None and label.kind == "logits":
        raise ParamsError("max_prob: labels of kind logits have no maximum probability")
    joined.check_columns(columns, list(source.columns), f"the store (artifact {artifact})")
    default = [
        name
        for name, column in source.columns.items()
        if artifact == "labels" or column.artifact == artifact or name in joined.KEY
    ]
    chosen = tuple(dict.fromkeys(columns)) or tuple(default)
    plan = ExportPlan(layout, artifact, chosen, selection, table, source)
    selection.bounds()
    selection.of_shards(len(source.soft), selection.of_images(table))
    return plan


def _scored(table: ImageTable, found: NDArray[np.float32]) -> pa.Table:
    """Scores (N,) with the paths and classes of their images."""
    ids = np.arange(len(table), dtype=np.int32)
    columns = {"image_id": ids, "path": table.paths, "class_id": table.class_ids}
    rows = pa.table({name: pa.array(values) for name, values in columns.items()})
    return rows.append_column("score", pa.array(found, mask=np.isnan(found)))


def _check_whole(artifact: str, selection: Selection, calibration: str | None) -> None:
    """Refuse conditions that a table of images has no columns for."""
    wrong: dict[str, object] = {
        "shard": selection.shards,
        "max_prob": selection.max_prob,
        "calibration": calibration,
    }
    if artifact == "rejects":
        wrong |= {
            "image_id": selection.image_ids,
            "class": selection.classes,
            "path": selection.path,
        }
    for name, value in wrong.items():
        if value:
            raise ParamsError(f"{name}: {artifact} has no rows of crops to choose by it")


def check_target(root: Path, out: Path, *, force: bool) -> None:
    """Refuse to write where it would do harm.

    Raises:
        ParamsError: an unknown suffix, a file that exists, or a place inside the store.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ParamsError(f"{out}: the name must end with {', '.join(SUFFIXES)}, or be - for CSV")
    if out.resolve().is_relative_to(root.resolve()):
        raise ParamsError(f"{out} lies inside the store {root}; write it elsewhere")
    if out.is_dir():
        raise ParamsError(f"{out} is a folder; name a file")
    if out.exists() and not force:
        raise ParamsError(f"{out} exists; it is replaced only with force")


def export(plan: ExportPlan, out: Path, progress: Progress) -> int:
    """Write the rows to a file, which appears only when it is whole; returns how many.

    Raises:
        DataError: a file of the store is missing or damaged.
    """
    with replace_file(out) as partial:
        return _write(plan.blocks(progress), partial, out.suffix.lower())


def export_csv(plan: ExportPlan, stream: BinaryIO, progress: Progress) -> int:
    """Write the rows as CSV to a stream; returns how many."""
    num_rows, header = 0, True
    for block in plan.blocks(progress):
        buffer = pa.BufferOutputStream()
        pacsv.write_csv(block, buffer, pacsv.WriteOptions(include_header=header))
        stream.write(buffer.getvalue())
        num_rows, header = num_rows + block.num_rows, False
    stream.flush()
    return num_rows


def _write(blocks: Iterator[pa.Table], path: Path, suffix: str) -> int:
    first = next(blocks)
    num_rows = 0
    with _writer(path, suffix, first.schema) as write:
        for block in _gathered(first, blocks):
            write(block)
            num_rows += block.num_rows
    return num_rows


def _gathered(first: pa.Table, blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in blocks that are not small, so that row groups are not."""
    waiting, num_rows = [first], first.num_rows
    for block in blocks:
        if not block.schema.equals(first.schema):
            raise DataError(
                f"parts of the store have other columns ({', '.join(block.schema.names)}) than the "
                "first; run `ferkd-pipeline store verify`"
            )
        waiting.append(block)
        num_rows += block.num_rows
        if num_rows >= scan.BLOCK_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, num_rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


@contextmanager
def _writer(path: Path, suffix: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], Any]]:
    if suffix == ".csv":
        with pacsv.CSVWriter(path, schema) as writer:
            yield writer.write
    elif suffix == ".parquet":
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            yield writer.write_table
    else:
        with pa.ipc.new_file(path, schema) as writer:
            yield writer.write

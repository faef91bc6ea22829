"""All shards of a store at once: a dataset of one artifact, and a stream of joined rows.

Shapes: M crops an image.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.dataset as ds

from store import entries, scan, scores
from store.arrays import ArrayReader
from store.entry import stage_of
from store.errors import DataError, ParamsError
from store.layout import part_name
from store.notebook import named
from store.notebook.part_rows import array_rows
from store.notebook.shard_tables import KEY, ShardTables, joined_artifacts

_MADE_OF = {"action_name": "action", "target_name": "target"}
_OF_SHARDS = ("crops", "soft")


def dataset(store: ShardTables, artifact: str) -> ds.Dataset:
    """All tables of an artifact, each compared with its entry; see `Frames.dataset`."""
    layout = store.layout
    store.require_store()
    named.artifact(layout, artifact)
    artifact, _, name = (artifact, "", "") if _is_folder(artifact) else artifact.partition("/")
    folder = layout.folder(artifact)
    if artifact.startswith("calibrated/") or artifact in _OF_SHARDS:
        for shard in store.shards:  # one that is not made, or being written
            store.entry(artifact, shard)
    if artifact == "soft":
        _require_one_label(store)
    parts = [
        (entry, folder / f"{entry.stem}.parquet")
        for entry in entries.list_entries(layout, artifact)
        if f"{entry.stem}.parquet" in entry.files and name in ("", entry.stem)
    ]
    if artifact == scores.ARTIFACT and len(parts) > 1:
        known = ", ".join(f"{artifact}/{entry.stem}" for entry, _ in parts)
        raise ParamsError(f"{folder} holds several tables of the same images; say which: {known}")
    listed = {path for _, path in parts}
    if strays := [path for path in sorted(folder.glob("part-*.parquet")) if path not in listed]:
        raise DataError(
            f"{strays[0]} has no entry: it is being written, or its stage was stopped; wait, or "
            f"run `{entries.stage_command(_stage(artifact), strays[0].stem)}` again"
        )
    if not parts:
        raise DataError(f"{folder} holds no Parquet parts; {_why_no_table(store, artifact)}")
    store.opened.check_all(parts)
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.dataset(
        [str(path) for _, path in parts],
        format=ds.ParquetFileFormat(default_fragment_scan_options=checked),
    )


def _is_folder(artifact: str) -> bool:
    """Whether an artifact is a folder of the store; ``scores/NAME`` is a table in one."""
    return not artifact.startswith(f"{scores.ARTIFACT}/")


def stream(
    store: ShardTables, calibration: str | None, columns: Sequence[str] | None
) -> pa.RecordBatchReader:
    """Joined rows of all shards, some at a time; see `Frames.batches`."""
    store.entry("crops", (store.shards or [0])[0])  # says what is missing where none is made
    for shard in store.shards:
        store.require_fit(shard, calibration)
    _require_one_label(store)
    artifacts = joined_artifacts(calibration)
    empty = {name: _open(store, name, store.shards[0], None).take(0) for name in artifacts}
    schema = store.join(empty, store.shards[0]).schema
    names = schema.names if columns is None else list(columns)
    if unknown := [name for name in names if name not in schema.names]:
        raise ParamsError(
            f"columns has {unknown[0]!r}: the joined rows have no such column; they have "
            f"{', '.join(schema.names)}"
        )
    needed = {*names, *(_MADE_OF[name] for name in names if name in _MADE_OF)}
    wanted = {
        name: [c for c in table.column_names if c in needed or c in KEY]
        for name, table in empty.items()
    }
    wanted = {name: own for name, own in wanted.items() if len(own) > len(KEY)}
    if not wanted:  # ids and paths alone
        wanted = {"crops": KEY}
    batches = (
        batch
        for shard in store.shards
        for block in _blocks(store, shard, wanted)
        for batch in block.select(names).to_batches()
    )
    return pa.RecordBatchReader.from_batches(pa.schema([schema.field(n) for n in names]), batches)


def _require_one_label(store: ShardTables) -> None:
    """Refuse labels of several kinds: what only some have would be left out without a word."""
    kinds = [(n, store.entry("soft", n).attributes.get("label")) for n in store.shards]
    for shard, label in kinds:
        if label != kinds[0][1]:
            folder = store.layout.folder("soft")
            raise DataError(
                f"{folder / part_name(shard)} has other labels than "
                f"{folder / part_name(kinds[0][0])}: they were made with other parameters; run "
                "`ferkd-pipeline stage compress`"
            )


class _Rows(Protocol):
    """What is read of one artifact of a shard, front to back."""

    def take(self, num_rows: int) -> pa.Table:
        """The next rows."""


class _ArrayRows:
    """Labels of a dense kind; rows are whole images."""

    def __init__(self, reader: ArrayReader, num_crops: int, columns: list[str] | None) -> None:
        self._reader, self._num_crops, self._columns = reader, num_crops, columns
        self._next = 0

    def take(self, num_rows: int) -> pa.Table:
        start = min(self._next, self._reader.num_images)
        stop = min(start + num_rows // self._num_crops, self._reader.num_images)
        self._next = stop
        return array_rows(self._reader, self._num_crops, (start, stop), self._columns)


def _open(store: ShardTables, artifact: str, shard: int, columns: list[str] | None) -> _Rows:
    entry = store.entry(artifact, shard)
    path = store.layout.arrays(artifact, entry.stem)
    if path.exists():
        reader = store.opened.arrays(entry, path)
        return _ArrayRows(reader, store.num_crops(shard), columns)
    return scan.RowReader(store.layout.table(artifact, entry.stem), columns)


def _blocks(store: ShardTables, shard: int, wanted: dict[str, list[str]]) -> Iterator[pa.Table]:
    """Joined rows of one shard; every artifact must have as many."""
    readers = {name: _open(store, name, shard, columns) for name, columns in wanted.items()}
    num_rows = scan.block_rows(store.num_crops(shard))
    left = store.entry("crops", shard).rows
    while left > 0:
        found = {name: reader.take(num_rows) for name, reader in readers.items()}
        for name, table in found.items():
            if table.num_rows != min(left, num_rows):
                raise DataError(
                    f"{store.layout.folder(name) / part_name(shard)} has fewer rows than its "
                    "crops; run `ferkd-pipeline store verify`"
                )
        yield store.join(found, shard)
        left -= num_rows


def _stage(artifact: str) -> str:
    return stage_of(artifact) or "index"


def _why_no_table(store: ShardTables, artifact: str) -> str:
    if any(store.layout.folder(artifact).glob("part-*.zarr")):
        return f"this artifact is kept in Zarr stores: store.arrays({artifact!r}, shard)"
    return f"run `ferkd-pipeline stage {_stage(artifact)}`"

"""Publishing one part of an artifact: files first, under their final names, the entry last."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from store import entries, lock, tables
from store.atomic import move_folder, remove, sweep
from store.digest import rows_digest
from store.entries import Entry
from store.layout import Layout, shard_of_file


@dataclass(frozen=True, slots=True)
class PartWriter:
    """The one writer of one part, handed to a stage; the caller holds the part's lock."""

    layout: Layout
    artifact: str
    stem: str
    stage: str
    key: str
    lineage: dict[str, Any] = field(default_factory=dict)

    def publish_table(
        self,
        table: pa.Table,
        numbers: dict[str, Any],
        *,
        attributes: dict[str, Any] | None = None,
        rows_per_image: int = 1,
        beside: dict[str, pa.Table] | None = None,
    ) -> Entry:
        """Write ``table`` as the part, tables ``beside`` it, then the entry that covers them."""
        self.begin()
        remove(self._arrays)
        described = self.metadata(attributes)
        tables.write_table(self._table, table, described, rows_per_image=rows_per_image)
        paths = [self._table]
        for stem, extra in (beside or {}).items():
            paths.append(self.layout.table(self.artifact, stem))
            tables.write_table(paths[-1], extra, described)
        digest = rows_digest(tables.columns(table))
        return self._publish(paths, table.num_rows, digest, numbers, attributes)

    def publish_arrays(
        self,
        folder: Path,
        num_rows: int,
        digest: str,
        numbers: dict[str, Any],
        *,
        attributes: dict[str, Any] | None = None,
        beside: dict[str, pa.Table] | None = None,
    ) -> Entry:
        """Move a finished Zarr store into place (and write tables beside it), then the entry."""
        self.begin()
        remove(self._table)
        move_folder(folder, self._arrays)
        paths = [self._arrays]
        for stem, extra in (beside or {}).items():
            paths.append(self.layout.table(self.artifact, stem))
            tables.write_table(paths[-1], extra, self.metadata(attributes))
        return self._publish(paths, num_rows, digest, numbers, attributes)

    def begin(self) -> None:
        """Withdraw the old entry and sweep what interrupted writers left."""
        lock.require(self.layout.lock(self.artifact, self.stem))
        entries.withdraw(self.layout, self.artifact, self.stem)
        folder = self.layout.folder(self.artifact)
        folder.mkdir(parents=True, exist_ok=True)
        for path in (self._table, self._arrays, self.layout.entry(self.artifact, self.stem)):
            sweep(path)
        if self.stem.startswith("part-"):  # tables beside an earlier part: rejects, suspects
            for path in folder.glob(f"_*{self.stem.removeprefix('part')}.parquet"):
                if shard_of_file(path.name) is not None:
                    remove(path)

    @property
    def _table(self) -> Path:
        return self.layout.table(self.artifact, self.stem)

    @property
    def _arrays(self) -> Path:
        return self.layout.arrays(self.artifact, self.stem)

    def metadata(self, attributes: dict[str, Any] | None) -> dict[str, Any]:
        """What every file of the part says of itself."""
        return {
            "artifact": self.artifact,
            "stage": self.stage,
            "key": self.key,
            "lineage": self.lineage,
            "attributes": attributes or {},
        }

    def _publish(
        self,
        paths: list[Path],
        num_rows: int,
        digest: str,
        numbers: dict[str, Any],
        attributes: dict[str, Any] | None,
    ) -> Entry:
        entry = Entry(
            artifact=self.artifact,
            stem=self.stem,
            stage=self.stage,
            key=self.key,
            rows=num_rows,
            rows_digest=digest,
            files=entries.file_records(self.layout.folder(self.artifact), paths),
            lineage=self.lineage,
            attributes=attributes or {},
            numbers=numbers,
            software=entries.installed_versions(),
        )
        lock.require(self.layout.lock(self.artifact, self.stem))
        entries.publish(self.layout, entry)
        return entry

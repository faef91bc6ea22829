"""Tables of a store as pandas frames or Arrow, of a shard or of all, alone or joined."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import pyarrow as pa
import pyarrow.dataset as ds

from store import entries
from store.entry import stage_of
from store.errors import ParamsError
from store.inspection.info import info
from store.layout import Layout, part_name
from store.notebook import arguments, named, part_rows, whole
from store.notebook.lazy_arrays import LazyArrays
from store.notebook.shard_tables import ShardTables

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 20_000_000
"""Rows that a method gives when no shard is named; more is refused, with what to do instead."""


class Frames:
    """What `LabelStore` gives as tables."""

    def __init__(self, root: str | Path) -> None:
        """Open the store at ``root``; nothing is read yet."""
        self.layout = Layout.beside(Path(root))
        self._tables = ShardTables(self.layout)

    def info(self) -> dict[str, Any]:
        """What is in the store and where it came from; see `store.inspection.info.info`."""
        return info(self.layout.root)

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of class c at place c."""
        return self._tables.images.class_names

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards; raises DataError where there is no store."""
        self._tables.require_store()
        return self._tables.shards

    @property
    def calibrations(self) -> list[str]:
        """Names of the calibrations."""
        return named.calibrations(self.layout)

    @overload
    def images(self, *, arrow: Literal[False] = False) -> "pd.DataFrame": ...
    @overload
    def images(self, *, arrow: Literal[True]) -> pa.Table: ...
    def images(self, *, arrow: bool = False) -> Any:
        """Id, path, class, size in pixels and content hash of every image, a row an image."""
        return _given(self._tables.images.rows, arrow)

    @overload
    def crops(
        self, shard: int | None = None, *, arrow: Literal[False] = False
    ) -> "pd.DataFrame": ...
    @overload
    def crops(self, shard: int | None = None, *, arrow: Literal[True]) -> pa.Table: ...
    def crops(self, shard: int | None = None, *, arrow: bool = False) -> Any:
        """Boxes (pixels) and flips, one row a crop."""
        return self._rows("crops", shard, lambda n: self._tables.read("crops", n), arrow)

    @overload
    def soft(
        self, shard: int | None = None, *, arrow: Literal[False] = False
    ) -> "pd.DataFrame": ...
    @overload
    def soft(self, shard: int | None = None, *, arrow: Literal[True]) -> pa.Table: ...
    def soft(self, shard: int | None = None, *, arrow: bool = False) -> Any:
        """Stored labels, one row a crop; of kinds full and logits without their dense values."""
        return self._rows("soft", shard, lambda n: self._tables.read("soft", n), arrow)

    @overload
    def calibration(
        self, shard: int | None = None, name: str | None = None, *, arrow: Literal[False] = False
    ) -> "pd.DataFrame": ...
    @overload
    def calibration(
        self, shard: int | None = None, name: str | None = None, *, arrow: Literal[True]
    ) -> pa.Table: ...
    def calibration(
        self, shard: int | None = None, name: str | None = None, *, arrow: bool = False
    ) -> Any:
        """Actions and weights of a calibration, one row a crop.

        Raises:
            DataError: there is no such calibration, or several and none is named.
        """
        artifact = named.calibration(self.layout, name)
        return self._rows(
            artifact,
            shard,
            lambda n: named.with_actions(self._tables.read(artifact, n)),
            arrow,
            "calibration",
        )

    @overload
    def labels(
        self,
        shard: int | None = None,
        calibration: str | None = None,
        *,
        arrow: Literal[False] = False,
    ) -> "pd.DataFrame": ...
    @overload
    def labels(
        self, shard: int | None = None, calibration: str | None = None, *, arrow: Literal[True]
    ) -> pa.Table: ...
    def labels(
        self, shard: int | None = None, calibration: str | None = None, *, arrow: bool = False
    ) -> Any:
        """Path, class, box, label and, where named, calibration of every crop, joined.

        Raises:
            DataError: a table is missing or damaged, or they are of different crops.
        """
        self._require(calibration)
        return self._rows(
            "soft", shard, lambda n: self._tables.labels(n, calibration), arrow, "labels"
        )

    @overload
    def image(
        self, image: int | str, calibration: str | None = None, *, arrow: Literal[False] = False
    ) -> "pd.DataFrame": ...
    @overload
    def image(
        self, image: int | str, calibration: str | None = None, *, arrow: Literal[True]
    ) -> pa.Table: ...
    def image(
        self, image: int | str, calibration: str | None = None, *, arrow: bool = False
    ) -> Any:
        """All crops of one image, given by id or path, joined as `labels` does.

        Reads the row group that holds them, not the shard.
        """
        self._require(calibration)
        return _given(self._tables.image_labels(image, calibration), arrow)

    def predictions(self, shard: int) -> LazyArrays:
        """What the teacher said of a shard, before compression: arrays over (image, crop, ...)."""
        return self.arrays("predictions", shard)

    def arrays(self, artifact: str, shard: int) -> LazyArrays:
        """The Zarr arrays of a shard of ``predictions``, or of ``soft`` of a dense kind."""
        shard = arguments.shard(shard)
        reader = self._tables.arrays(artifact, shard)
        return LazyArrays(reader, self._tables.entry(artifact, shard).attributes)

    def dataset(self, artifact: str = "soft") -> ds.Dataset:
        """All parts of an artifact as one pyarrow dataset, for queries over the whole store.

        ``artifact`` is ``soft``, ``crops``, ``calibrated/NAME``, ``scores/NAME``, ``images`` or
        ``rejects``.
        pyarrow does not join datasets without reading them whole: `batches` gives joined rows.

        Every file is compared with the SHA-256 of its entry, the first time and after it changed;
        that reads all of them once. Queries then verify checksums of the pages that they read.

        Raises:
            ParamsError: no store has such an artifact.
            DataError: a part is missing, damaged, being written or of a newer format version, or
                the artifact has no tables (it is not made, or kept in Zarr stores).
        """
        return whole.dataset(self._tables, artifact)

    def batches(
        self, calibration: str | None = None, *, columns: Sequence[str] | None = None
    ) -> pa.RecordBatchReader:
        """The rows of `labels` of the whole store as a stream: only the columns named are read.

        DuckDB reads such a stream as a table, once: ask for a new one for the next query.

        Raises:
            ParamsError: there is no such column.
            DataError: a part is missing, damaged, or of other images or crops.
        """
        self._require(calibration)
        return whole.stream(self._tables, calibration, columns)

    def _rows(
        self,
        artifact: str,
        shard: int | None,
        read: Callable[[int], pa.Table],
        arrow: bool,
        method: str | None = None,
    ) -> Any:
        """One shard, or all of them where their rows are not too many."""
        if shard is not None:
            return _given(read(arguments.shard(shard)), arrow)
        self._refuse_too_much(artifact, method or artifact)
        shards = self.shards
        if not shards:
            read(0)  # says what is missing
        parts = ((self.layout.folder(artifact) / part_name(n), read(n)) for n in shards)
        stage = stage_of(artifact) or "calibrate"
        return _given(part_rows.together(parts, f"ferkd-pipeline stage {stage}"), arrow)

    def _refuse_too_much(self, artifact: str, method: str) -> None:
        rows = sum(entry.rows for entry in entries.list_entries(self.layout, artifact))
        if rows <= MAX_ROWS:
            return
        folder = self.layout.folder(artifact)
        raise ParamsError(
            f"{folder} has {rows:,} rows, too many for one table (at most {MAX_ROWS:,}); name a "
            f"shard, such as store.{method}({(self.shards or [0])[0]}), or query all with "
            f"store.dataset({artifact!r}) or store.batches()"
        )

    def _require(self, calibration: str | None) -> None:
        """Refuse the name of a calibration that the store does not have."""
        if calibration is not None:
            named.calibration(self.layout, calibration)


def _given(table: pa.Table, arrow: bool) -> Any:
    return table if arrow else table.to_pandas()

"""The store for notebooks: tables as pandas frames, joined where that is what people want."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from store import entries, images, tables
from store.errors import DataError
from store.images import ImageTable
from store.info import info
from store.layout import Layout, calibrated, part_name
from store.soft_part import SoftPart

if TYPE_CHECKING:
    import pandas as pd


_KEY = ["image_id", "crop"]


class LabelStore:
    """One label store on disk, read-only.

    >>> store = LabelStore("labels")
    >>> store.labels(3)                 # crops, labels and image paths of shard 3, one row a crop
    >>> store.dataset().to_table(filter=ds.field("target") == 7)   # over all shards
    """

    def __init__(self, root: str | Path) -> None:
        """Open the store at ``root``; nothing is read yet."""
        self.layout = Layout.beside(Path(root))

    def info(self) -> dict[str, Any]:
        """What is in the store and where it came from; see `store.info.info`."""
        return info(self.layout.root)

    def images(self) -> ImageTable:
        """Ids, paths, classes and sizes of the images."""
        return images.load(self.layout)

    def crops(self, shard: int) -> "pd.DataFrame":
        """Boxes and flips of a shard, one row a crop."""
        return self._frame(self._table("crops", shard))

    def soft(self, shard: int) -> "pd.DataFrame":
        """Stored labels of a shard (a sparse kind), one row a crop."""
        return self._frame(self._table("soft", shard))

    def calibration(self, name: str, shard: int) -> "pd.DataFrame":
        """Actions and weights of a named calibration, one row a crop."""
        return self._frame(self._table(calibrated(name), shard))

    def labels(self, shard: int, calibration: str | None = None) -> "pd.DataFrame":
        """Path, box, label and, where named, calibration of every crop of a shard, joined.

        The tables of a shard have the same rows in the same order, so this is no search.

        Raises:
            DataError: a table is missing or damaged, or they are of different crops.
        """
        joined = self._table("crops", shard)
        artifacts = ["soft"] if calibration is None else ["soft", calibrated(calibration)]
        for artifact in artifacts:
            other = self._table(artifact, shard)
            if not other.select(_KEY).equals(joined.select(_KEY)):
                raise DataError(
                    f"{self.layout.table(artifact, part_name(shard))} has other rows than "
                    f"{self.layout.table('crops', part_name(shard))}; run `ferkd-pipeline store "
                    "verify`"
                )
            for name in other.column_names[2:]:
                joined = joined.append_column(name, other.column(name))
        ids = tables.column(joined, "image_id")
        paths = pa.array(self.images().paths[ids])
        return self._frame(joined.add_column(2, "path", paths))

    def dataset(self, artifact: str = "soft") -> ds.Dataset:
        """All parts of an artifact as one pyarrow dataset, for queries over the whole store.

        Raises:
            DataError: the artifact has no tables (it is not made, or kept in Zarr stores).
        """
        folder = self.layout.folder(artifact)
        files = sorted(folder.glob("part-*.parquet"))
        if not files:
            raise DataError(f"{folder} holds no Parquet parts; {self._why_no_table(artifact)}")
        return ds.dataset([str(path) for path in files], format="parquet")

    def max_prob_counts(self, num_bins: int = 20) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Histogram of the maximum probability of all crops: edges (bins + 1,), counts (bins,).

        A value on an edge is in the bin above it, 1 in the last. Rejected crops do not count.
        """
        edges = np.linspace(0.0, 1.0, num_bins + 1)
        counts = np.zeros(num_bins, np.int64)
        for entry in entries.list_entries(self.layout, "soft"):
            values = SoftPart(self.layout, entry).max_prob()
            # The values are rounded: 0.05 as float32 lies above 0.05, others may lie below.
            places = np.floor(values[~np.isnan(values)].astype(np.float64) * num_bins + 1e-6)
            counts += np.bincount(
                np.minimum(places.astype(np.int64), num_bins - 1), minlength=num_bins
            )
        return edges, counts

    def _table(self, artifact: str, shard: int) -> pa.Table:
        path = self.layout.table(artifact, part_name(shard))
        if not path.exists():
            raise DataError(f"{path} is missing; {self._why_no_table(artifact)}")
        return tables.read_table(path)

    def _why_no_table(self, artifact: str) -> str:
        if any(self.layout.folder(artifact).glob("part-*.zarr")):
            return "this artifact is kept in Zarr stores: open them with store.arrays.ArrayReader"
        return "run the stage that writes it"

    @staticmethod
    def _frame(table: pa.Table) -> "pd.DataFrame":
        frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
        return frame

"""A temporary store of a few images, on which stages run as on the whole: same code, same files."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ferkd_pipeline import engine
from ferkd_pipeline.params import Params, StoreConfig
from ferkd_pipeline.whole.common import layout_of
from stages.shared.contract import Progress
from store import images
from store.images import ImageTable
from store.layout import Layout
from store.parts import PartWriter

_ARROW = ".parquet"


@dataclass(frozen=True, slots=True)
class SmallStore:
    """A store of one shard, and the parameters that say so."""

    params: Params
    images: ImageTable

    @property
    def layout(self) -> Layout:
        """Where it lies."""
        return layout_of(self.params)

    def run(self, stage: str, progress: Progress) -> None:
        """Run a stage on it."""
        engine.run_stage(self.params, stage, None, progress=progress)


@contextlib.contextmanager
def small_store(
    values: Params, table: ImageTable, rows: NDArray[np.int64], **sections: Any
) -> Iterator[SmallStore]:
    """A store of the images ``rows`` of ``table``, beside the store of ``values``.

    ``sections`` stand in place of those of params.yaml. It lies on the same disk, and is gone when
    the block ends.
    """
    work = layout_of(values).work / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="plan-", dir=work) as folder:
        store = StoreConfig(root=Path(folder) / "labels", num_shards=1)
        params = replace(values, store=store, sections={**values.sections, **sections})
        few = ImageTable(
            table.paths[rows],
            table.class_ids[rows],
            table.heights[rows],
            table.widths[rows],
            table.content_hashes[rows],
            table.class_names,
        )
        listed, classes = images.image_tables(few, np.zeros(len(few), dtype=np.int64))
        writer = PartWriter(layout_of(params), "images", images.STEM, "index", "plan")
        writer.publish_table(listed, {}, beside={"classes": classes})
        yield SmallStore(params, few)


@dataclass(frozen=True, slots=True)
class PartSize:
    """Bytes of one artifact's part."""

    of_rows: int
    """Grows with the crops."""
    of_part: int
    """Footers and the entry: once a shard, however many crops."""


def part_size(folder: Path) -> PartSize:
    """Size of the one part in an artifact's folder."""
    of_rows = of_part = 0
    for path in folder.rglob("*"):
        if not path.is_file() or path.name == "_manifest.json":
            continue
        size, data = path.stat().st_size, 0
        if path.suffix == _ARROW:
            data = _column_bytes(path)
        elif path.name != "zarr.json" and any(each.suffix == ".zarr" for each in path.parents):
            data = size
        of_rows += data
        of_part += size - data
    return PartSize(of_rows, of_part)


def _column_bytes(path: Path) -> int:
    described = pq.read_metadata(path)
    groups = (described.row_group(g) for g in range(described.num_row_groups))
    return sum(
        group.column(c).total_compressed_size for group in groups for c in range(group.num_columns)
    )

"""Tables of one store as Arrow: a shard or a few images of it, alone or joined.

Shapes: N images or rows, M crops an image. The tables of a shard have the same rows in the same
order, so joining them is putting columns side by side, and the rows of image i of a shard are
i * M to (i + 1) * M: nothing is searched for.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from store import entries, images, tables
from store.arrays import ArrayReader
from store.entries import Entry
from store.entry import stage_of
from store.errors import DataError, ParamsError
from store.layout import Layout, calibrated, list_artifacts, part_name
from store.notebook import fitting, named
from store.notebook.opened import Opened
from store.notebook.part_rows import array_rows
from store.notebook.store_images import StoreImages
from store.upstream import require_fit, require_labels

Span = tuple[int, int]
"""Images of a shard by their place in it: the first and one past the last."""

KEY = ["image_id", "crop"]
_WITHOUT_SHARDS = ("images", "rejects", "scores")


class ShardTables:
    """Reads the tables of a store; what it read and checked it knows until the files change."""

    def __init__(self, layout: Layout) -> None:
        """Read nothing yet."""
        self.layout = layout
        self.opened = Opened(layout)
        self._images: StoreImages | None = None
        self._fitting: dict[int, tuple[Entry | None, ...]] = {}
        self._num_shards: tuple[tuple[Entry, Entry, int], int] | None = None

    @property
    def images(self) -> StoreImages:
        """The images as they are listed now.

        Raises:
            DataError: there is no such store, or it has no images.
        """
        self.require_store()
        entry = self.opened.entry("images", images.STEM)
        if entry is None:
            raise DataError(
                f"{self.layout.entry('images', images.STEM)} is missing; "
                "run `ferkd-pipeline stage index` first"
            )
        if self._images is None or self._images.entry != entry:
            self._images = StoreImages(self.layout, entry)
        return self._images

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards that have crops, ascending."""
        paths = entries.entry_paths(self.layout, "crops")
        stems = [path.stem.removeprefix("_part-") for path in paths]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def entry(self, artifact: str, shard: int) -> Entry:
        """The entry of a shard.

        Raises:
            DataError: there is no such store, no such shard, or it is not made yet.
        """
        self.require_store()
        found = self.opened.entry(artifact, part_name(shard))
        if found is not None:
            return found
        known = self.shards
        if known and shard not in known:
            raise DataError(
                f"{self.layout.root} has no shard {shard}: its shards are {_spelled(known)}"
            )
        stage = stage_of(artifact) or "calibrate"
        raise DataError(
            f"{self.layout.entry(artifact, part_name(shard))} is missing; run "
            f"`{entries.stage_command(stage, part_name(shard))}` first"
        )

    def read(self, artifact: str, shard: int, span: Span | None = None) -> pa.Table:
        """Rows of a shard as stored; of dense labels all but what has a value of every class.

        Raises:
            DataError: the part is missing or damaged.
        """
        entry = self.entry(artifact, shard)
        path = self.layout.arrays(artifact, entry.stem)
        if path.exists():
            reader = self.opened.arrays(entry, path)
            return array_rows(reader, int(entry.attribute("num_crops")), span)
        path = self.layout.table(artifact, entry.stem)
        if span is None:
            return tables.read_table(path).replace_schema_metadata(None)
        num_crops = self.num_crops(shard)
        return self.opened.rows(entry, path, span[0] * num_crops, span[1] * num_crops)

    def labels(self, shard: int, calibration: str | None, span: Span | None = None) -> pa.Table:
        """Path, class, box, label and, where named, calibration of every crop, joined.

        Raises:
            DataError: a table is missing or damaged, or they are of different images or crops.
        """
        self.require_fit(shard, calibration)
        found = {name: self.read(name, shard, span) for name in joined_artifacts(calibration)}
        return self.join(found, shard)

    def join(self, found: Mapping[str, pa.Table], shard: int) -> pa.Table:
        """The same rows of several artifacts side by side, with names beside numbers.

        Raises:
            DataError: they are not the same rows.
        """
        (first, joined), *others = found.items()
        joined = named.with_actions(joined)
        for artifact, table in others:
            if not table.select(KEY).equals(joined.select(KEY)):
                raise DataError(
                    f"{self.layout.folder(artifact) / part_name(shard)} has other rows than "
                    f"{self.layout.folder(first) / part_name(shard)}; run `ferkd-pipeline store "
                    "verify`"
                )
            other = named.with_actions(table)
            for name in other.column_names[len(KEY) :]:
                joined = joined.append_column(name, other.column(name))
        return self._with_names(joined, shard)

    def require_fit(self, shard: int, calibration: str | None = None) -> None:
        """Refuse crops and labels of other images, labels of other crops, and so on.

        Raises:
            DataError: a part is missing, or was made from others than those beside it.
        """
        made = (self.entry("crops", shard), self.entry("soft", shard))
        said = self.opened.entry("predictions", part_name(shard))
        of = (self.images.entry, *made, said)
        if self._fitting.get(shard) != of:
            table = self.images.table
            number = fitting.num_shards(self.layout, table, made[0], shard, self.shards[-1] + 1)
            require_labels(self.layout, table, number, shard)
            self._fitting[shard] = of
        if calibration is not None:
            overlay = self.entry(calibrated(calibration), shard)
            other = str(self.layout.folder("soft") / made[1].stem)
            require_fit(self.layout, overlay, "soft", made[1].rows_digest, other)

    def num_crops(self, shard: int) -> int:
        """M, crops an image."""
        return int(self.entry("crops", shard).attribute("num_crops"))

    def find(self, image: int | str) -> tuple[int, int]:
        """Shard of an image, given by id or path, and its place in that shard.

        Raises:
            DataError: there is no such image, or its shard has no crops.
        """
        image_id = self.images.id_of(image)
        num_images = len(self.images.paths)
        self.entry("crops", (self.shards or [0])[0])  # says what is missing where none is made
        number = self._count_shards()
        shard = fitting.shard_of(image_id, num_images, number)
        if shard in self.shards:
            return shard, image_id - images.shard_bounds(num_images, number, shard)[0]
        raise DataError(
            f"no shard of {self.layout.folder('crops')} has image {image_id} "
            f"({self.images.paths[image_id]}); run `ferkd-pipeline stage sample`"
        )

    def image_labels(self, image: int | str, calibration: str | None) -> pa.Table:
        """The joined rows (M,) of one image, read without the rest of its shard."""
        shard, place = self.find(image)
        rows = self.labels(shard, calibration, (place, place + 1))
        ids = tables.column(rows, "image_id")
        if not (ids == self.images.id_of(image)).all():
            raise DataError(
                f"{self.layout.table('crops', part_name(shard))} is not sorted by image and crop; "
                "run `ferkd-pipeline store verify`"
            )
        return rows

    def arrays(self, artifact: str, shard: int) -> ArrayReader:
        """The Zarr store of a shard; raises DataError where it has none."""
        named.artifact(self.layout, artifact)
        if artifact.split("/")[0] in _WITHOUT_SHARDS:
            raise ParamsError(
                f"{artifact} is one table, without shards; read it with store.dataset({artifact!r})"
            )
        entry = self.entry(artifact, shard)
        path = self.layout.arrays(artifact, entry.stem)
        if not path.exists():
            raise DataError(
                f"{self.layout.table(artifact, entry.stem)} is a table, not a Zarr store; read it "
                f"with store.{artifact.split('/')[0].replace('calibrated', 'calibration')}({shard})"
            )
        return self.opened.arrays(entry, path)

    def require_store(self) -> None:
        """Refuse a folder without any artifact."""
        if not list_artifacts(self.layout):
            raise DataError(
                f"{self.layout.root} holds no label store; give the path of one, or run "
                "`ferkd-pipeline stage index` first"
            )

    def _count_shards(self) -> int:
        """Number of shards of the store, by its last crops; those of others may be missing."""
        last = self.shards[-1]
        crops, listed = self.entry("crops", last), self.images
        if self._num_shards is None or self._num_shards[0] != (listed.entry, crops, last):
            found = fitting.num_shards(self.layout, listed.table, crops, last, last + 1)
            self._num_shards = ((listed.entry, crops, last), found)
        return self._num_shards[1]

    def _with_names(self, joined: pa.Table, shard: int) -> pa.Table:
        listed, ids = self.images, tables.column(joined, "image_id")
        first, last = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
        if first < 0 or last >= len(listed.paths):
            raise DataError(
                f"{self.layout.table('crops', part_name(shard))} has images that "
                f"{listed.listed} does not list; run `ferkd-pipeline "
                f"stage sample --shard {shard}` again"
            )
        own = listed.paths.slice(first, last + 1 - first)
        path = pa.DictionaryArray.from_arrays(pa.array(ids.astype(np.int32) - first), own)
        joined = joined.add_column(2, "path", path)
        if "target" not in joined.column_names:
            return joined
        return joined.add_column(3, "target_name", listed.named(joined.column("target")))


def joined_artifacts(calibration: str | None) -> list[str]:
    """What `ShardTables.labels` joins, in the order of its columns."""
    return ["crops", "soft", *([] if calibration is None else [calibrated(calibration)])]


def _spelled(shards: list[int]) -> str:
    if shards == list(range(shards[0], shards[-1] + 1)):
        return f"{shards[0]} to {shards[-1]}" if len(shards) > 1 else f"only {shards[0]}"
    return ", ".join(map(str, shards))

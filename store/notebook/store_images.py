"""The images and classes of one store, read when they are asked for.

Shapes: N images.
"""

from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from store import images, tables
from store.entries import Entry
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout
from store.notebook import arguments, named


class StoreImages:
    """What the entry ``entry`` of the images says; another entry needs another one of these."""

    def __init__(self, layout: Layout, entry: Entry) -> None:
        """Read nothing yet."""
        self.entry = entry
        self.listed = layout.table("images", images.STEM)
        """The file that lists them."""
        self._classes = layout.table("images", "classes")

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Name of class c at place c."""
        return tuple(tables.read_table(self._classes, ["name"]).column("name").to_pylist())

    @cached_property
    def rows(self) -> pa.Table:
        """Columns of ``images.parquet`` and the name of the class beside its id."""
        table = tables.read_table(self.listed)
        names = self.named(table.column("class_id"))
        place = table.column_names.index("class_id") + 1
        return table.add_column(place, "class_name", names).replace_schema_metadata(None)

    @cached_property
    def table(self) -> ImageTable:
        """What labels are compared with: all but content hashes."""
        columns = {name: tables.column(self._core, name) for name in ("class_id", *_SIZES)}
        return ImageTable(
            self._core.column("path"),
            columns["class_id"],
            columns["height"],
            columns["width"],
            None,
            self.class_names,
        )

    @cached_property
    def paths(self) -> pa.Array:
        """(N,) path of image i at place i."""
        return self._core.column("path").combine_chunks()

    def id_of(self, image: int | str) -> int:
        """Id of an image given by id or path.

        Raises:
            ParamsError: it is neither.
            DataError: there is none.
        """
        image = arguments.image(image)
        if isinstance(image, str):
            place: int = pc.index(self.paths, image).as_py()
            if place < 0:
                raise DataError(
                    f"{self.listed} lists no {image!r}: paths are relative to the folder of "
                    f"images, such as {self.paths[0].as_py()!r}"
                )
            return place
        if not 0 <= image < len(self.paths):
            raise DataError(
                f"{self.listed} has no image {image}: ids are 0 to {len(self.paths) - 1:,}"
            )
        return image

    def named(self, class_ids: pa.ChunkedArray) -> pa.Array:
        """Names of class ids; raises DataError where one has no name."""
        return named.classes(class_ids, self.class_names, self._classes)

    @cached_property
    def _core(self) -> pa.Table:
        return tables.read_table(self.listed, ["path", "class_id", *_SIZES])


_SIZES = ("height", "width")

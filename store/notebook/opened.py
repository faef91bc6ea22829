"""What was read and compared with its entry once, for as long as the files stay the same.

A notebook asks for one image after another, and hashing a part of 100 MB takes longer than reading
one image of it. So a file is hashed again only where its time, size or place on the disk changed,
or its entry did.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from store import entries, scan, tables
from store.arrays import ArrayReader
from store.entries import Entry
from store.layout import Layout
from store.notebook.part_rows import Groups, row_groups
from store.recorded import check_named

Stamp = tuple[int, int, int]

_KEPT_GROUPS = 3
"""Of crops, labels and a calibration: about 20 MB each."""


class Opened:
    """Entries, checked files and Zarr readers of one store."""

    def __init__(self, layout: Layout) -> None:
        """Read nothing yet."""
        self._layout = layout
        self._entries: dict[Path, tuple[Stamp, Entry]] = {}
        self._checked: dict[Path, tuple[Stamp, str]] = {}
        self._readers: dict[Path, tuple[Entry, ArrayReader]] = {}
        self._groups: dict[Path, tuple[Stamp | None, Groups]] = {}

    def entry(self, artifact: str, stem: str) -> Entry | None:
        """The entry of a part; None where it is not complete.

        Raises:
            DataError: it is damaged or of a newer format version.
        """
        path = self._layout.entry(artifact, stem)
        stamp = _stamp(path)
        kept = self._entries.get(path)
        if stamp is not None and kept is not None and kept[0] == stamp:
            return kept[1]
        found = entries.find_entry(self._layout, artifact, stem)
        if found is not None and stamp is not None:
            self._entries[path] = (stamp, found)
        return found

    def check(self, entry: Entry, path: Path) -> None:
        """Compare the Parquet file at ``path`` with its entry, and see that we can read it.

        Raises:
            DataError: it is missing, damaged, another file, or of a newer format version.
        """
        stamp, record = _stamp(path), entry.files.get(path.name)
        known = None if record is None or stamp is None else (stamp, record.sha256)
        if known is not None and self._checked.get(path) == known:
            return
        check_named(entry, path.parent, path.name)
        with tables.damage_is_told(path):
            schema = pq.read_schema(path)
        tables.check_described(path, schema.empty_table())
        if known is not None:
            self._checked[path] = known

    def rows(self, entry: Entry, path: Path, start: int, stop: int) -> pa.Table:
        """Rows ``start`` to ``stop`` (exclusive) of a Parquet file, read with their row group.

        The last groups are kept: the next image that is asked for is often beside this one.

        Raises:
            DataError: the file is missing, damaged, too short, or of a newer format version.
        """
        self.check(entry, path)
        stamp = _stamp(path)
        kept = self._groups.pop(path, None)
        if kept is None or kept[0] != stamp or kept[1].rows(start, stop) is None:
            while len(self._groups) >= _KEPT_GROUPS:
                self._groups.pop(next(iter(self._groups)))
            kept = (stamp, row_groups(path, start, stop))
        self._groups[path] = kept
        found = kept[1].rows(start, stop)
        assert found is not None
        return found

    def check_all(self, parts: Sequence[tuple[Entry, Path]]) -> None:
        """`check` of each, several at once."""
        for _ in scan.in_order(lambda part: self.check(*part), parts):
            pass

    def arrays(self, entry: Entry, path: Path) -> ArrayReader:
        """A reader of the Zarr store of a part: one for all who ask, as it knows what it checked.

        Raises:
            DataError: it is missing, damaged, or of a newer format version.
        """
        kept = self._readers.get(path)
        if kept is None or kept[0] != entry:
            kept = self._readers[path] = (entry, ArrayReader(path))
        return kept[1]


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

"""Tables read row by row: in bounded memory, in order, columns by name."""

import pytest

from store import scan
from store.errors import DataError
from store.layout import Layout
from tests.store.small_store import SmallStore


def test_a_missing_column_is_named(own: SmallStore) -> None:
    path = own.layout.table("crops", "part-00000")
    with pytest.raises(DataError, match=r"has no column rotation; it has image_id, "):
        scan.RowReader(path, ["rotation"])
    assert scan.RowReader(path, ["flip", "top"]).schema.names == ["flip", "top"]


def test_rows_come_in_the_order_and_number_asked_for(small: SmallStore) -> None:
    path = Layout.beside(small.root).table("crops", "part-00000")
    reader = scan.RowReader(path, ["image_id", "crop"])
    assert [reader.take(n).num_rows for n in (3, 0, 9, 100, 1)] == [3, 0, 9, 4, 0]

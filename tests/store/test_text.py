"""Text in Arrow's buffers says the same as text in Python strings."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.digest import rows_digest
from store.text import TextColumn

TEXTS = st.lists(st.text(max_size=6), max_size=9)


def strings(texts: list[str]) -> np.ndarray:
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found


@given(TEXTS, st.integers(-2, 9), st.integers(-2, 9))
def test_digest_is_that_of_the_strings(texts: list[str], start: int, stop: int) -> None:
    for values in (
        strings(texts),
        pa.array(texts, pa.string()),
        pa.chunked_array([texts[:2], texts[2:]], pa.string()),
    ):
        column = TextColumn.of(values)
        assert column.strings().tolist() == texts
        own = column.slice(start, stop).slice(0, 9)
        expected = strings(texts[start:stop])
        assert own.strings().tolist() == expected.tolist()
        assert rows_digest({"a": own.framed()}) == rows_digest({"a": expected})


@given(TEXTS.filter(bool), st.data())
def test_packed_texts_end_where_the_next_begins(texts: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9))
    ends, packed = TextColumn.of(strings(texts)).packed(np.array(rows, dtype=np.int64))
    starts = [0, *ends[:-1]]
    found = [packed[a:b].tobytes().decode() for a, b in zip(starts, ends, strict=False)]
    assert found == [texts[row] for row in rows]


def test_a_pickled_slice_leaves_the_rest_behind() -> None:
    column = TextColumn.of(strings([f"a path of some length {i}" for i in range(10_000)]))
    data = pickle.dumps(column.slice(5000, 5002))
    assert len(data) < 2000
    assert pickle.loads(data).strings().tolist() == [
        "a path of some length 5000",
        "a path of some length 5001",
    ]


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_is_text_too(texts: list[str]) -> None:
    column = TextColumn.of(strings(texts))
    assert rows_digest({"a": column.framed()}) == rows_digest({"a": strings(texts)})
    ends, packed = column.packed(np.arange(len(texts)))
    assert (ends.tolist(), len(packed)) == ([0] * len(texts), 0)

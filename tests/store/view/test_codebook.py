"""Codes stand for the values that they were given to, whoever gave them."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from store.view.codebook import Codebook, FullError


def test_codes_name_their_values_and_stay() -> None:
    book = Codebook(pa.float32(), 5)
    first = book.encode(pa.array([0.5, 0.25, 0.5], pa.float32()))
    assert first.tolist() == [0, 1, 0]
    again = book.encode(pa.chunked_array([[0.25], [None, 1.0]], pa.float32()))
    assert again.tolist() == [1, 2, 3]
    assert book.encode(pa.array([None, 0.5], pa.float32())).tolist() == [2, 0]
    np.testing.assert_array_equal(book.values, np.array([0.5, 0.25, np.nan, 1.0], np.float32))
    assert book.values.dtype == np.float32


def test_one_value_too_many_is_told() -> None:
    book = Codebook(pa.uint64(), 2)
    book.encode(pa.array([7, 8, 7], pa.uint64()))
    with pytest.raises(FullError):
        book.encode(pa.array([7, 9], pa.uint64()))


def test_threads_share_one_numbering(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pc.is_in

    def slow(*args: Any, **kwargs: Any) -> Any:
        found = plain(*args, **kwargs)
        time.sleep(0.002)  # a thread that had no lock would now overtake this one
        return found

    monkeypatch.setattr(pc, "is_in", slow)
    book, rng = Codebook(pa.float32(), 2000), np.random.default_rng(0)
    pieces = [rng.integers(0, 1000, 5000).astype(np.float32) for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda piece: book.encode(pa.array(piece)), pieces))
    assert len(np.unique(book.values)) == len(book.values) == 1000
    for piece, own in zip(pieces, codes, strict=True):
        np.testing.assert_array_equal(book.values[own], piece)

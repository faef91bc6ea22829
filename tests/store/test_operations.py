"""Codes of recorded operations are a contract; what a table may hold of them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import operations, schema
from store.batch import RecordedOps
from store.errors import DataError
from store.operations import Operation
from store.tables import make_table

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
CODES = {
    **{"none": 0, "brightness": 1, "contrast": 2, "saturation": 3, "hue": 4, "sharpness": 5},
    **{"posterize": 6, "solarize": 7, "autocontrast": 8, "equalize": 9, "invert": 10},
    **{"rotate": 11, "shear_x": 12, "shear_y": 13, "translate_x": 14, "translate_y": 15},
}


def ops_of(*pairs: tuple[int, float]) -> RecordedOps:
    codes, levels = zip(*pairs, strict=True)
    return RecordedOps(np.array([codes], np.uint8), np.array([levels], np.float32))


def test_codes_never_change() -> None:
    assert {op.name.lower(): int(op) for op in Operation} == CODES


def test_the_format_page_lists_every_code() -> None:
    section = FORMAT.read_text(encoding="utf-8").split("## Recorded augmentation")[1]
    rows = re.findall(r"^\| (\d+) \| (\w+)", section.split("\n## ")[0], re.MULTILINE)
    assert [int(code) for code, _ in rows] == list(Operation)
    for code, word in rows[1:12]:
        assert Operation(int(code)).name.lower() == word


@pytest.mark.parametrize(
    ("op", "allowed", "refused"),
    [
        (Operation.NONE, [0], [1]),
        (Operation.EQUALIZE, [0], [0.5, -1]),
        (Operation.BRIGHTNESS, [0, 1.5, 1000], [-0.1, np.nan, np.inf]),
        (Operation.HUE, [-0.5, 0.5], [-0.51, 0.6]),
        (Operation.POSTERIZE, [0, 3, 8], [-1, 9, 2.5]),
        (Operation.SOLARIZE, [0, 127.5, 255], [-1, 256]),
        (Operation.ROTATE, [-360, 12.5], [361]),
        (Operation.SHEAR_Y, [-2, 0.3], [np.nan, -np.inf]),
        (Operation.TRANSLATE_X, [-2, 0.3], [np.inf]),
    ],
)
def test_levels_that_can_be_replayed(
    op: Operation, allowed: list[float], refused: list[float]
) -> None:
    for level in allowed:
        assert operations.what_is_wrong(ops_of((0, 0), (op, level))) is None
    for level in refused:
        wrong = operations.what_is_wrong(ops_of((0, 0), (op, level)))
        assert wrong == f"the operation {op.name.lower()} with level {np.float32(level):g}"


def test_codes_of_a_later_version_are_refused() -> None:
    assert operations.what_is_wrong(ops_of((1, 1), (16, 0), (99, 0))) == "the operation 16"
    assert operations.what_is_wrong(ops_of((255, 0))) == "the operation 255"
    minus: Any = np.array([[-1]])
    signed = RecordedOps(minus, np.zeros((1, 1), np.float32))
    assert operations.what_is_wrong(signed) == "the operation -1"


@given(num_ops=st.integers(1, 4), num_rows=st.integers(0, 5), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_columns_are_read_as_they_were_written(num_ops: int, num_rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.choice([0, 1, 12], (num_rows, 1, num_ops)).astype(np.uint8)
    levels = np.where(codes > 0, rng.random(codes.shape), 0).astype(np.float32)
    columns = operations.columns_of(RecordedOps(codes, levels))
    wanted = [field for field in schema.crops(num_ops) if field.name not in schema.CROPS.names]
    assert list(columns) == [field.name for field in wanted] == operations.column_names(num_ops)
    table = make_table(pa.schema(wanted), columns)
    found = operations.from_table(Path("crops.parquet"), table, num_ops)
    np.testing.assert_array_equal(found.codes, codes[:, 0])
    np.testing.assert_array_equal(found.levels, levels[:, 0])


def test_a_table_that_cannot_be_replayed_is_named() -> None:
    table = make_table(
        pa.schema([("op_0", pa.uint8()), ("level_0", pa.float32())]),
        operations.columns_of(ops_of((77, 0))),
    )
    with pytest.raises(DataError, match=r"a/part\.parquet has the operation 77, which"):
        operations.from_table(Path("a/part.parquet"), table, 1)
    with pytest.raises(DataError, match=r"a/part\.parquet lacks the column op_1"):
        operations.from_table(Path("a/part.parquet"), table, 2)


def test_no_operations_is_the_schema_that_it_always_was() -> None:
    assert schema.crops(0) == schema.CROPS

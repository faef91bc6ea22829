"""Digests: one spelling for one value, blind to block cuts, sensitive to everything else."""

import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.digest import RowsDigest, canonical_json, rows_digest, sha256_file, sha256_json

GOLDEN = Path(__file__).parents[1] / "golden" / "digests.json"

TEXT = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def columns() -> dict[str, Any]:
    """One column of every type that the store has; texts of other lengths than one."""
    return {
        "image_id": np.arange(6, dtype=np.int32),
        "crop": np.arange(6, dtype=np.int16) % 3,
        "prob": np.linspace(0, 1, 6, dtype=np.float32),
        "logp": np.arange(24, dtype=np.float16).reshape(6, 4),
        "key": np.arange(6, dtype=np.uint64) + np.uint64(2**63),
        "flip": np.array([True, False] * 3),
        "path": np.array(["a", "", "bß", "c/d", "e", "日本"], dtype=object),
    }


@given(VALUES)
def test_canonical_json_is_json_and_says_the_same(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(TEXT, VALUES, max_size=5), st.randoms())
def test_canonical_json_does_not_know_the_order_of_keys(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)
    assert sha256_json(value) == hashlib.sha256(canonical_json(value)).hexdigest()


@given(VALUES, VALUES)
def test_canonical_json_tells_values_apart(one: Any, other: Any) -> None:
    if canonical_json(one) == canonical_json(other):
        assert one == other


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_canonical_json_refuses_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


@given(st.lists(st.integers(0, 6), max_size=4))
def test_rows_digest_does_not_know_the_cuts(cuts: list[int]) -> None:
    digest, edges = RowsDigest(), [0, *sorted(cuts), 6]
    for start, stop in itertools.pairwise(edges):
        digest.update({name: values[start:stop] for name, values in columns().items()})
    assert digest.hexdigest() == rows_digest(columns())


@given(st.permutations(list(columns())))
def test_rows_digest_does_not_know_the_order_of_columns(names: list[str]) -> None:
    assert rows_digest({name: columns()[name] for name in names}) == rows_digest(columns())


def test_rows_digest_does_not_know_memory() -> None:
    """Byte order, strides and the way text is held say nothing about the rows."""
    plain = columns()
    other = dict(plain)
    other["image_id"] = plain["image_id"].astype(">i4")
    other["logp"] = np.asfortranarray(plain["logp"])
    other["prob"] = np.repeat(plain["prob"], 2)[::2]
    other["path"] = plain["path"].astype(str)
    assert rows_digest(other) == rows_digest(plain)


def changed(name: str, values: Any) -> dict[str, Any]:
    return {**columns(), name: values}


@pytest.mark.parametrize(
    "other",
    [
        changed("image_id", np.array([0, 1, 2, 3, 4, 6], np.int32)),
        changed("image_id", np.array([1, 0, 2, 3, 4, 5], np.int32)),
        changed("image_id", np.arange(6, dtype=np.int64)),
        changed("image_id", np.arange(6, dtype=np.uint32)),
        changed("flip", np.array([1, 0] * 3, np.uint8)),
        changed("prob", np.linspace(0, 1, 6, dtype=np.float32).view(np.int32)),
        changed("logp", columns()["logp"].reshape(6, 2, 2)),
        changed("path", np.array(["a", "b", "ß", "c/d", "e", "日本"], dtype=object)),
        changed("another", np.zeros(6)),
        {name if name != "crop" else "crops": values for name, values in columns().items()},
        {name: values[:5] for name, values in columns().items()},
        {name: values for name, values in columns().items() if name != "flip"},
    ],
)
def test_rows_digest_sees_every_difference(other: dict[str, Any]) -> None:
    assert rows_digest(other) != rows_digest(columns())


def test_text_that_joins_to_the_same_bytes_differs() -> None:
    one, other = (np.array(text, dtype=object) for text in (["ab", "c"], ["a", "bc"]))
    assert rows_digest({"path": one}) != rows_digest({"path": other})


@pytest.mark.parametrize("later", [np.zeros(2, np.int64), np.zeros((2, 2), np.int32)])
def test_a_column_may_not_change_its_type_between_blocks(later: Any) -> None:
    digest = RowsDigest()
    digest.update({"x": np.zeros(2, np.int32)})
    with pytest.raises(ValueError, match="column x changed"):
        digest.update({"x": later})


def test_sha256_of_a_file_longer_than_one_block(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_golden_digests() -> None:
    """A changed digest makes every label of every user look outdated.

    If that is wanted, raise FORMAT_VERSION and write `make_golden()` to tests/golden/digests.json.
    """
    assert make_golden() == json.loads(GOLDEN.read_text())


def make_golden() -> dict[str, str]:
    value = {"b": [1, 1.5, None, True], "a": {"ß": "日本", "": -0.0, "x": 1e-05}}
    return {
        "sha256_json": sha256_json(value),
        "rows": rows_digest(columns()),
        **{name: rows_digest({name: values}) for name, values in columns().items()},
    }

"""The training view carries what is recorded of crops, and the hashes of the files they show."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import entries, images, tables
from store.batch import RecordedOps
from store.codecs import LabelSpec
from store.errors import DataError
from store.images import ImageTable
from store.layout import Layout, part_name
from store.parts import PartWriter
from store.view.meta import ViewMeta
from store.view.record import RecordLayout, record_dtype
from tests.store.view.view_store import (
    NAME,
    NUM_IMAGES,
    Content,
    build,
    given_in,
    open_view,
    random_content,
)

SPARSE = LabelSpec("marginal_smoothing", 3, 6, "compact")
SPECS = [
    SPARSE,
    replace(SPARSE, include_target=True),
    replace(SPARSE, kind="full", precision="float16"),
    replace(SPARSE, kind="logits", precision="float16"),
]


def some_ops(num_ops: int, seed: int = 0, num_crops: int = 5) -> RecordedOps:
    rng, shape = np.random.default_rng(seed), (NUM_IMAGES, num_crops, num_ops)
    codes = rng.choice([0, 1, 2, 12], shape).astype(np.uint8)
    return RecordedOps(codes, np.where(codes > 0, rng.random(shape), 0).astype(np.float32))


@pytest.mark.parametrize("num_ops", [1, 6])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.include_target}")
def test_operations_are_served_with_the_labels(
    tmp_path: Path, spec: LabelSpec, num_ops: int
) -> None:
    content = replace(random_content(spec), ops=some_ops(num_ops))
    view = open_view(build(tmp_path / "labels", content))
    plain = open_view(build(tmp_path / "plain", replace(content, ops=None)))
    rows = np.array([6, 0, 3])
    crops = np.array([[4, 0], [1, 1], [2, 3]])
    ids, expected = view.image_ids[rows][:, None], given_in(content.ops)
    for found in (view.gather(rows, crops), view.fetch(rows, crops)):
        ops = given_in(found.ops)
        assert (ops.codes.dtype.str, ops.levels.dtype.str) == ("|u1", "<f4")
        np.testing.assert_array_equal(ops.codes, expected.codes[ids, crops])
        np.testing.assert_array_equal(ops.levels, expected.levels[ids, crops])
    one, other = view.gather(rows, crops), plain.gather(rows, crops)
    assert other.ops is None is plain.fetch(rows, crops).ops
    for name in ("boxes", "flips", "class_ids", "weights", "tail", "targets", "dense"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    again = pickle.loads(pickle.dumps(view)).gather(rows, crops)
    np.testing.assert_array_equal(again.ops.levels, given_in(one.ops).levels)


@given(
    num_ops=st.integers(0, 9),
    box=st.sampled_from(["uint16", "int16", "int32"]),
    prob=st.sampled_from(["uint16", "float32"]),
    weights=st.sampled_from(["none", "uint8", "float32"]),
)
@settings(max_examples=40, deadline=None)
def test_records_stay_aligned_and_describe_themselves(
    num_ops: int, box: Any, prob: Any, weights: Any
) -> None:
    layout = RecordLayout(box, prob, weights, num_ops)
    dtype = record_dtype(SPARSE, layout)
    fields = given_in(dtype.fields)
    for kind, offset in ((each[0], each[1]) for each in fields.values()):
        assert offset % kind.base.itemsize == 0
    assert ("op" in fields) == ("level" in fields) == (num_ops > 0)
    meta = ViewMeta("0", "/", 1, 5, 6, SPARSE, None, record=layout, images_digest="1")
    assert ViewMeta.from_json(meta.to_json()) == meta


def test_operations_that_cannot_be_replayed_make_no_view(tmp_path: Path) -> None:
    ops = some_ops(2)
    ops.codes[5, 1, 1] = 40
    layout = build(tmp_path / "labels", replace(random_content(SPARSE), ops=ops))
    with pytest.raises(DataError, match=r"crops/part-00001\.parquet has the operation 40"):
        open_view(layout)
    assert not list(layout.view_cache().glob("*/meta.json"))


def with_hashes(layout: Layout, hashes: list[str]) -> None:
    """Publish the images again, with other files of the same sizes."""
    entry = entries.read_entry(layout.entry("images", images.STEM))
    rows = tables.read_table(layout.table("images", images.STEM)).replace_schema_metadata()
    classes = tables.read_table(layout.table("images", "classes")).replace_schema_metadata()
    rows = rows.set_column(rows.column_names.index("content_hash"), "content_hash", [hashes])
    rows = rows.cast(pa.schema([*rows.schema]))
    part = PartWriter(layout, "images", images.STEM, entry.stage, entry.key, entry.lineage)
    part.publish_table(rows, {}, beside={"classes": classes})


def content() -> Content:
    weights = np.ones((NUM_IMAGES, 5, 2), np.float32)
    weights[2] = np.nan
    return random_content(SPARSE, weights=weights)


def test_hashes_of_the_usable_images_are_served(tmp_path: Path) -> None:
    layout = build(tmp_path / "labels", content())
    spelled = [f"{i:x}".rjust(16, "f") + f"{i + 10:x}".rjust(16, "0") for i in range(NUM_IMAGES)]
    with_hashes(layout, spelled)
    view = open_view(layout, NAME)
    assert view.image_ids.tolist() == [0, 1, 3, 4, 5, 6]
    assert (view.content_hashes.shape, view.content_hashes.dtype.str) == ((6, 2), "<u8")
    found = [f"{high:016x}{low:016x}" for high, low in view.content_hashes.tolist()]
    assert found == [spelled[i] for i in view.image_ids]


def test_other_files_make_another_view_of_the_same_labels(tmp_path: Path) -> None:
    layout = build(tmp_path / "labels", content())
    before = open_view(layout)
    with_hashes(layout, ["1" * 32, *["0" * 32] * (NUM_IMAGES - 1)])
    after = open_view(layout)
    assert after.folder != before.folder
    assert after.meta.digest == before.meta.digest  # no student is trained again for it
    assert (after.content_hashes != before.content_hashes).any(axis=1).tolist() == [True] + [
        False
    ] * (NUM_IMAGES - 1)


@pytest.mark.parametrize("wrong", ["0" * 31, "0" * 33, "g" * 32, "", "ß" * 16])
def test_hashes_that_are_none_are_refused(wrong: str) -> None:
    one = np.zeros(2, np.int32)
    table = ImageTable(
        np.array(["a", "b"], dtype=object),
        one,
        one,
        one,
        np.array(["0" * 32, wrong], dtype=object),
        ("one",),
    )
    assert table.content_hash_words(np.array([0])).tolist() == [[0, 0]]
    with pytest.raises(DataError, match="not 32 hex digits; run `ferkd-pipeline stage index`"):
        table.content_hash_words(np.array([0, 1]))


def test_shards_that_record_other_numbers_of_operations_are_refused(tmp_path: Path) -> None:
    layout = build(tmp_path / "labels", replace(random_content(SPARSE), ops=some_ops(2)))
    entry = entries.read_entry(layout.entry("crops", part_name(1)))
    entries.publish(layout, replace(entry, attributes={**entry.attributes, "num_ops": 1}))
    with pytest.raises(DataError, match=r"part-00001\.json has 1 operations a crop, .* has 2"):
        open_view(layout)

"""Scores of images in a store: reading, refusals, verify, info, export, notebook."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store import LabelStore, entries, images, scores, tables
from store.check.verify import VerifyResult, verify
from store.errors import DataError, ParamsError
from store.inspection.export import export, plan_export
from store.inspection.info import info
from store.inspection.selection import Selection
from store.layout import is_name_of_scores
from store.parts import PartWriter
from store.progress import Progress
from store.schema import SCORES
from tests.store.inspection.worlds import Watch
from tests.store.small_store import NUM_IMAGES, SmallStore

VALUES = np.array([0.5, -1, np.nan, 2, 0, 0.25, 7, 1], np.float32)


def publish(
    small: SmallStore, name: str, values: np.ndarray = VALUES, **read: str
) -> entries.Entry:
    lineage = {
        "revision": 1,
        "params": {"estimator": name},
        "inputs": {"images": scores.images_digest(small.table), **read},
    }
    writer = PartWriter(small.layout, scores.ARTIFACT, name, "score", f"key of {name}", lineage)
    ids = np.arange(len(values), dtype=np.int32)
    table = tables.make_table(SCORES, {"image_id": ids, "score": values})
    entry = writer.publish_table(table, {"num_scored": 7})
    entries.write_manifest(small.layout, scores.ARTIFACT)
    return entry


def verified(small: SmallStore, *, deep: bool = True) -> VerifyResult:
    progress: Progress = Watch()
    return verify(small.root, progress, deep=deep)


def test_what_was_published_is_read(own: SmallStore) -> None:
    entry = publish(own, "helpful")
    found, values = scores.read(own.layout, own.table, "helpful")
    assert found == entry == scores.find(own.layout, "helpful")
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, VALUES)
    plain = pq.read_table(own.layout.table("scores", "helpful"))
    assert plain.schema.remove_metadata() == SCORES
    assert plain.column("score").null_count == 1


@pytest.mark.parametrize("name", ["lost", "../soft/part-00000", "fit", ""])
def test_missing_scores_name_the_command(own: SmallStore, name: str) -> None:
    publish(own, "helpful")
    with pytest.raises(
        DataError, match=r"is missing; name .* and run `ferkd-pipeline stage score`"
    ):
        scores.find(own.layout, name)


def test_scores_of_other_images_are_refused(own: SmallStore) -> None:
    publish(own, "helpful")
    table = images.load(own.layout)
    table.class_ids = table.class_ids[::-1].copy()
    with pytest.raises(
        DataError,
        match=r"_helpful\.json holds scores of other images than .*images\.parquet .*stage score",
    ):
        scores.read(own.layout, table, "helpful")


def test_rows_must_be_the_images(own: SmallStore) -> None:
    publish(own, "short", VALUES[:-1])
    with pytest.raises(DataError, match="has not one row for each of the 8 images"):
        scores.read(own.layout, own.table, "short")
    kinds = [damage.kind for damage in verified(own).damages]
    assert kinds == [f"holds 7 rows instead of {NUM_IMAGES}"]


def test_a_flipped_byte_is_found(own: SmallStore) -> None:
    publish(own, "helpful")
    path = own.layout.table("scores", "helpful")
    assert not verified(own).damages
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (damage,) = verified(own, deep=False).damages
    assert damage.file == str(path) and damage.part == "scores/helpful"
    assert damage.remedy == "delete it and run `ferkd-pipeline stage score`"
    with pytest.raises(DataError, match=r"helpful\.parquet"):
        scores.read(own.layout, own.table, "helpful")


def test_verify_checks_contents(own: SmallStore) -> None:
    publish(own, "wild", np.where(np.isnan(VALUES), np.inf, VALUES))
    publish(own, "fine")  # other parameters than the first: as it should be
    assert [damage.kind for damage in verified(own).damages] == ["it has scores that are infinite"]
    assert not verified(own, deep=False).damages


def test_verify_compares_with_images_and_labels(own: SmallStore) -> None:
    soft = entries.list_entries(own.layout, "soft")
    publish(own, "taught", labels=scores.labels_digest(soft))
    assert not verified(own).damages
    publish(own, "taught", labels="of others")
    publish(own, "old", images="of others")
    found = {damage.part: damage for damage in verified(own).damages}
    assert found["scores/taught"].kind == "made from other soft"
    assert found["scores/old"].kind == "made from other images"
    assert found["scores/old"].remedy == "run `ferkd-pipeline stage score`"


def test_verify_finds_strays_and_missing_manifests(own: SmallStore) -> None:
    publish(own, "helpful")
    stray = own.layout.table("scores", "stray")
    stray.write_bytes(b"")
    (damage,) = verified(own).damages
    assert (damage.file, damage.kind) == (str(stray), "belongs to no entry")
    stray.unlink()
    os.unlink(own.layout.manifest("scores"))
    (damage,) = verified(own).damages
    assert damage.remedy == "run `ferkd-pipeline record score`"


def test_info_says_each_name(own: SmallStore) -> None:
    publish(own, "b")
    publish(own, "a")
    found = info(own.root)
    assert found["scores"] == ["a", "b"]
    told = found["artifacts"]["scores"]
    assert told["params"] == {"a": {"estimator": "a"}, "b": {"estimator": "b"}}
    assert told["numbers"] == {"a": {"num_scored": 7}, "b": {"num_scored": 7}}
    assert told["is_one_run"] and told["num_parts"] == 2 and told["stage"] == "score"


def test_export_adds_paths_and_classes(own: SmallStore, tmp_path: Path) -> None:
    publish(own, "helpful")
    out = tmp_path / "x.parquet"
    plan = plan_export(own.root, "scores/helpful", [], Selection(image_ids=(2, 3)), None)
    assert export(plan, out, Watch()) == 2
    rows = pa.table(pq.read_table(out)).to_pylist()
    assert [row["score"] for row in rows] == [None, 2.0]
    assert rows[1] == {
        "image_id": 3,
        "path": own.table.paths[3],
        "class_id": own.table.class_ids[3],
        "score": 2.0,
        "class_name": own.table.class_names[own.table.class_ids[3]],
    }
    with pytest.raises(ParamsError, match=r"must be one of labels, .*, scores/helpful"):
        plan_export(own.root, "scores", [], Selection(), None)


def test_notebooks_read_one_name(own: SmallStore) -> None:
    publish(own, "a")
    store = LabelStore(own.root)
    assert store.dataset("scores").count_rows() == NUM_IMAGES
    publish(own, "b", VALUES[::-1])
    found = store.dataset("scores/b").to_table().column("score").to_pylist()
    assert (found[0], found[5]) == (1, None)
    with pytest.raises(ParamsError, match="several tables of the same images; say which: scores/a"):
        store.dataset("scores")
    with pytest.raises(DataError, match=r"_c\.json is missing"):
        store.dataset("scores/c")
    with pytest.raises(ParamsError, match="one table, without shards"):
        store.arrays("scores/a", 0)


@pytest.mark.parametrize("name", ["", "manifest", "fit", "part-00001", "a/b", "_x", "x" * 65, "ü"])
def test_names_that_scores_may_not_have(name: str) -> None:
    assert not is_name_of_scores(name)
    assert is_name_of_scores("el2n-4_x.1")

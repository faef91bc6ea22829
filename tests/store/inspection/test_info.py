"""What `info` says of a store: whole, begun, damaged."""

import json
from dataclasses import replace

import pytest

from store import entries
from store.codecs import LabelSpec
from store.errors import DataError
from store.inspection import info
from store.notebook.label_store import LabelStore
from tests.store.small_store import NAME, NUM_CLASSES, NUM_CROPS, NUM_IMAGES, SPEC, SmallStore


def test_info_counts_everything(small: SmallStore) -> None:
    found = info.info(small.root)
    assert found == LabelStore(small.root).info()
    json.dumps(found)
    artifacts = found["artifacts"]
    names = ["images", "rejects", "crops", "predictions", "soft", f"calibrated/{NAME}"]
    assert list(artifacts) == names
    assert all(artifacts[name]["is_recorded"] and artifacts[name]["is_one_run"] for name in names)
    assert [artifacts[name]["rows"] for name in names] == [8, 1, *[NUM_IMAGES * NUM_CROPS] * 4]
    assert [artifacts[name]["num_parts"] for name in names] == [1, 1, 2, 2, 2, 2]
    files = list(small.layout.folder("soft").glob("*.parquet"))
    assert artifacts["soft"]["num_bytes"] == sum(file.stat().st_size for file in files)
    assert artifacts["crops"]["numbers"] == {"num_images": NUM_IMAGES, "num_crops": NUM_CROPS}
    counts = artifacts[f"calibrated/{NAME}"]["numbers"]["actions"]
    assert sum(counts.values()) == NUM_IMAGES * NUM_CROPS
    assert counts["reject"] == NUM_CROPS
    assert (found["num_images"], found["num_classes"]) == (NUM_IMAGES, NUM_CLASSES)
    assert (found["num_crops"], found["calibrations"]) == (NUM_CROPS, [NAME])
    assert found["teacher"] == {"name": "resnet18", "digest": "0" * 32, "device": "cpu"}
    assert LabelSpec(**found["label"]) == SPEC
    assert found["bytes_per_crop"] > found["label_bytes_per_crop"] > 0


def test_info_of_a_store_that_is_only_begun(own: SmallStore) -> None:
    for artifact in ("predictions", "soft"):
        for path in own.layout.folder(artifact).glob("_*.json"):
            path.unlink()
    own.layout.manifest("crops").unlink()
    entry = entries.read_entry(own.layout.entry("crops", "part-00001"))
    entries.publish(own.layout, replace(entry, lineage={"params": {"low": 2}}))
    found = info.info(own.root)
    assert set(found["artifacts"]) == {"images", "rejects", "crops", f"calibrated/{NAME}"}
    assert not found["artifacts"]["crops"]["is_recorded"]
    assert not found["artifacts"]["crops"]["is_one_run"]
    assert "teacher" not in found


def test_info_of_nothing_and_of_damage(own: SmallStore) -> None:
    with pytest.raises(DataError, match="holds no label store"):
        info.info(own.root.parent / "nothing")
    own.layout.entry("crops", "part-00000").write_bytes(b"{")
    with pytest.raises(DataError, match="is not JSON"):
        info.info(own.root)

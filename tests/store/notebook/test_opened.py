"""What is hashed again when a notebook asks for one image after another."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from store import tables
from store.errors import DataError
from store.notebook.label_store import LabelStore
from tests.store.small_store import NAME, NUM_CROPS, SmallStore, republish_with


def test_files_are_hashed_once_for_all_images(own: SmallStore, hashed: list[Path]) -> None:
    opened = LabelStore(own.root)
    for image_id in (5, 4, 5, 7):
        assert set(opened.image(image_id, NAME)["image_id"]) == {image_id}
    parts = [path for path in hashed if path.stem == "part-00001"]
    assert sorted(path.parent.name for path in parts) == ["crops", NAME, "soft"]
    del hashed[:]
    opened.image(6, NAME)
    opened.image("klasse 0/bild-ß-0.jpg")
    assert sorted(path.stem for path in hashed) == ["part-00000"] * 2


def test_images_of_arrays_are_hashed_once(full: SmallStore, hashed: list[Path]) -> None:
    opened = LabelStore(full.root)
    rows = opened.labels()
    del hashed[:]
    opened.decode(rows[rows["image_id"] % 2 == 0])
    assert len(hashed) == len(set(hashed))
    opened.decode(rows)
    opened.image(6)
    labels = [path for path in hashed if "soft" in path.parts]
    assert labels
    assert len(labels) == len(set(labels))
    del hashed[:]
    opened.decode(rows.sample(frac=1, random_state=0))
    assert hashed == []


def test_a_change_is_seen(own: SmallStore) -> None:
    opened = LabelStore(own.root)
    assert len(opened.image(6)) == NUM_CROPS
    path = own.layout.table("soft", "part-00001")
    rows = tables.columns(tables.read_table(path))
    republish_with(own, "soft", "part-00001", columns={"prob_0": rows["prob_0"] * 0 + 0.25})
    assert opened.image(6)["prob_0"].tolist() == [0.25] * NUM_CROPS
    reads: list[Callable[[], object]] = [lambda: opened.image(6), opened.dataset]
    path.write_bytes(own.layout.table("soft", "part-00000").read_bytes())
    for read in reads:
        with pytest.raises(DataError, match=r"part-00001.parquet has .*run `ferkd-pipeline"):
            read()


def test_pictures_are_importable_without_matplotlib() -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
import store.notebook.figure, store.notebook.label_store, store.notebook.pictures
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)

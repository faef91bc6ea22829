"""A view holds the rows that it is named after, or there is none: whatever else runs meanwhile."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import entries, tables
from store.errors import DataError, RetryError
from store.view import fill as view_fill
from store.view.build import plan_view
from store.view.rows import RowFiller, ViewPart
from tests.store.small_store import (
    NAME,
    NUM_SHARDS,
    SmallStore,
    files_of,
    record_bytes,
    republish_with,
)

STEM = "part-00001"
CHANGED = "labels changed while the view was built; run again"


def change_labels(small: SmallStore) -> None:
    """What compress does: another part, whole, with an entry of its own."""
    probs = tables.column(tables.read_table(small.layout.table("soft", STEM)), "prob_1")
    republish_with(small, "soft", STEM, columns={"prob_1": probs / 2})


def change_weights(small: SmallStore) -> None:
    table = tables.read_table(small.layout.table(f"calibrated/{NAME}", STEM))
    weights = tables.column(table, "teacher_weight") / 2
    republish_with(small, f"calibrated/{NAME}", STEM, columns={"teacher_weight": weights})


def withdraw_labels(small: SmallStore) -> None:
    entries.withdraw(small.layout, "soft", STEM)


CHANGES = [change_labels, change_weights, withdraw_labels]


@pytest.mark.parametrize("change", CHANGES)
def test_labels_that_change_after_the_plan_make_no_view(
    own: SmallStore, change: Callable[[SmallStore], None]
) -> None:
    plan = plan_view(own.layout, NUM_SHARDS, Path("data"), NAME)
    change(own)
    with pytest.raises(RetryError, match=CHANGED):
        plan.open()
    assert [path.suffix for path in own.layout.view_cache().iterdir()] == [".lock"]


@pytest.mark.parametrize("change", CHANGES)
def test_labels_that_change_during_the_build_make_no_view(
    own: SmallStore, change: Callable[[SmallStore], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_view(own.layout, NUM_SHARDS, Path("data"), NAME)
    plain = view_fill._save_images

    def save(*inputs: Any) -> None:
        change(own)
        plain(*inputs)

    monkeypatch.setattr(view_fill, "_save_images", save)
    with pytest.raises(RetryError, match=CHANGED):
        plan.open()
    assert [path.suffix for path in own.layout.view_cache().iterdir()] == [".lock"]


def test_view_of_a_new_plan_holds_the_new_rows(own: SmallStore) -> None:
    old = plan_view(own.layout, NUM_SHARDS, Path("data")).open()
    change_labels(own)
    new = plan_view(own.layout, NUM_SHARDS, Path("data")).open()
    assert new.meta.digest != old.meta.digest
    row, crops = np.array([6]), np.array([[0]])
    assert not np.array_equal(old.fetch(row, crops).probs, new.fetch(row, crops).probs)


def test_damage_while_labels_change_is_not_told_as_damage(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_view(own.layout, NUM_SHARDS, Path("data"))
    plain = RowFiller.fill

    def fill(self: RowFiller, part: ViewPart, *inputs: Any) -> Any:
        if part.soft.stem == STEM:
            change_labels(own)
            raise DataError("a chunk is missing")
        return plain(self, part, *inputs)

    monkeypatch.setattr(RowFiller, "fill", fill)
    with pytest.raises(RetryError, match=CHANGED):
        plan.open()


def test_labels_that_change_and_change_back_make_no_view(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the entries say nothing: what is read must be what they list."""
    plan = plan_view(own.layout, NUM_SHARDS, Path("data"))
    before, plain = files_of(own.layout.folder("soft")), RowFiller.fill

    def fill(self: RowFiller, part: ViewPart, *inputs: Any) -> Any:
        if part.soft.stem != STEM:
            return plain(self, part, *inputs)
        change_labels(own)
        try:
            return plain(self, part, *inputs)
        finally:
            for name, data in before.items():
                (own.layout.folder("soft") / name).write_bytes(data)

    monkeypatch.setattr(RowFiller, "fill", fill)
    with pytest.raises(RetryError, match="is being written by another process; try again"):
        plan.open()


def test_images_that_change_after_the_plan_make_no_view(own: SmallStore) -> None:
    plan = plan_view(own.layout, NUM_SHARDS, Path("data"))
    path = own.layout.table("images", "images")
    table = tables.read_table(path)
    metadata = tables.read_metadata(table)
    columns = {**tables.columns(table), "height": tables.column(table, "height") + 1}
    changed = tables.make_table(table.schema.remove_metadata(), columns)
    tables.write_table(path, changed, metadata)
    record_bytes(path)
    with pytest.raises(RetryError, match="images changed while the view was built; run again"):
        plan.open()


def test_disk_is_reserved_where_no_system_call_does_it(
    own: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(view_fill, "_ZEROS", 1000)
    path = tmp_path / "x.npy"
    array = view_fill._create(path, np.dtype("<u2"), (150_000, 2))
    assert path.stat().st_blocks * 512 >= path.stat().st_size > 600_000
    assert not np.load(path, mmap_mode="r").any()
    array[-1] = 7
    np.testing.assert_array_equal(np.load(path)[-1], [7, 7])
    assert plan_view(own.layout, NUM_SHARDS, Path("data")).open().num_images == 7

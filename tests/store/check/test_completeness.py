"""Verify says what is missing: shards, stages, fits."""

from dataclasses import replace
from pathlib import Path

import pytest

from store import entries
from store.atomic import remove
from store.check import completeness
from store.images import shard_bounds
from store.layout import part_name
from store.schema import CROPS
from store.tables import make_table
from tests.store.check.found import STEM, damages, kinds
from tests.store.small_store import NAME, SmallStore, crop_columns, publish_rows


def test_unfinished_stage_is_said_in_words(own: SmallStore) -> None:
    """As a run that was killed leaves it: withdrawn entries, no manifest."""
    for artifact, stems in (("soft", ["part-00000", STEM]), (f"calibrated/{NAME}", [STEM])):
        for stem in stems:
            entries.withdraw(own.layout, artifact, stem)
            own.layout.table(artifact, stem).unlink()
    (own.layout.folder(f"calibrated/{NAME}") / "_fit.json").unlink()
    found = {(d.kind, d.remedy, d.part) for d in damages(own.root) if "manifest" not in d.kind}
    assert found == {
        (
            "shards 0-1 are missing (2 of 2): stage compress is not finished",
            "run `ferkd-pipeline stage compress`",
            "soft",
        ),
        (
            "shard 1 of 2 is missing: stage calibrate is not finished",
            "run `ferkd-pipeline stage calibrate`",
            f"calibrated/{NAME}/{STEM}",
        ),
        (
            "no fit: stage calibrate is not finished",
            "run `ferkd-pipeline stage calibrate`",
            f"calibrated/{NAME}",
        ),
    }


def test_begun_index_is_told(tmp_path: Path) -> None:
    (tmp_path / "labels" / "images").mkdir(parents=True)
    found = damages(tmp_path / "labels")
    assert found[0].kind == "holds nothing complete: stage index is not finished"
    assert found[0].remedy == "run `ferkd-pipeline stage index`"


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_shard_is_told_though_recorded_without_it(own: SmallStore, missing: int) -> None:
    stem = f"part-0000{missing}"
    for artifact in ("crops", "predictions", "soft", f"calibrated/{NAME}"):
        entry = entries.read_entry(own.layout.entry(artifact, stem))
        entries.withdraw(own.layout, artifact, stem)
        for name in {name.split("/")[0] for name in entry.files}:
            remove(own.layout.folder(artifact) / name)
        entries.write_manifest(own.layout, artifact)
    found = damages(own.root)
    assert {d.kind.split(":")[0] for d in found} == {f"shard {missing} of 2 is missing"}
    assert len(found) == 4


def test_parts_of_another_number_of_shards_are_told(own: SmallStore) -> None:
    rows = make_table(CROPS, crop_columns(own, 0))
    publish_rows(own.layout, "crops", "part-00007", "sample", {}, rows)
    entries.write_manifest(own.layout, "crops")
    kind = "a part of another number of shards: this store has 2"
    assert kinds(own) == {("crops/_part-00007.json", kind)}


@pytest.mark.parametrize("num", [8, 9, 1000, 1281167])
@pytest.mark.parametrize("total", [1, 2, 7, 8])
def test_number_of_shards_follows_from_any_half_of_the_parts(
    small: SmallStore, num: int, total: int
) -> None:
    plain = entries.read_entry(small.layout.entry("crops", "part-00000"))
    parts = []
    for shard in range(total):
        start, stop = shard_bounds(num, total, shard)
        parts.append(replace(plain, stem=part_name(shard), rows=(stop - start) * 4))
    assert completeness.num_shards(parts, num) == total
    assert completeness.num_shards(parts, None) == total
    assert completeness.num_shards(parts[total // 2 :], num) == total
    if num > 100:
        assert completeness.num_shards(parts[: (total + 1) // 2], num) == total

"""The deep verify: rows that were written wrong, under right digests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.shared.contract import NoProgress
from store import entries, tables
from store.check import contents, verify
from store.check.expected import Expected
from store.codecs import LabelSpec
from tests.store.small_store import NAME, SPEC, SmallStore, build, republish_with

STEM = "part-00001"
Columns = dict[str, Any]


def kinds(small: SmallStore, name: str) -> set[str]:
    """What the deep verify says of one file below the root."""
    found = verify.verify(small.root, NoProgress(), deep=True).damages
    return {d.kind for d in found if Path(d.file) == small.root / name}


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, precision="compact"),
        replace(SPEC, kind="full"),
        replace(SPEC, kind="hard"),
        replace(SPEC, kind="marginal_renorm", k=5),
        replace(SPEC, temperature=2.0, include_target=True),
    ],
)
def test_whole_stores_are_whole(tmp_path: Path, spec: LabelSpec) -> None:
    small = build(tmp_path / "labels", spec)
    assert verify.verify(small.root, NoProgress(), deep=True).damages == []


def put(name: str, row: int, value: object) -> Callable[[Columns], None]:
    """A change of one value of one column."""

    def change(columns: Columns) -> None:
        columns[name] = columns[name].copy()
        columns[name][row] = value

    return change


def swap_rows(columns: Columns) -> None:
    for name, values in columns.items():
        columns[name] = values[[1, 0, *range(2, len(values))]]


ORDER = "its rows are not crops 0 to 3 of each image from 4 to 7 in this order"
OUTSIDE = "it has probabilities outside 0 to 1"
WEIGHTS = "its weights are null elsewhere than in dropped and rejected rows"
CASES = [
    ("crops", swap_rows, {ORDER}),
    ("crops", put("image_id", 0, 0), {ORDER}),
    ("crops", put("height", 2, 0), {"it has boxes without a pixel"}),
    ("soft", swap_rows, {ORDER}),
    ("soft", put("crop", 3, 4), {ORDER}),
    ("soft", put("target", 3, 4), {"its targets are not the classes of the images"}),
    ("soft", put("class_1", 3, 5), {"it has class ids that are not below 5"}),
    ("soft", put("class_1", 3, -1), {"it has class ids that are not below 5"}),
    ("soft", put("prob_0", 3, 0.0), {"it has probabilities that rise from one rank to the next"}),
    ("soft", put("prob_1", 3, -0.5), {OUTSIDE}),
    ("soft", put("prob_1", 3, np.nan), {"it has rows that are null in part"}),
    ("soft", put("target_prob", 3, 1.5), {"target_prob is outside 0 to 1"}),
    ("soft", put("target_prob", 3, np.nan), {"target_prob is null in other rows than the label"}),
    ("calibrated", put("action", 0, 9), {"it has actions that docs/format.md does not list"}),
    ("calibrated", put("teacher_weight", 0, np.nan), {WEIGHTS}),
    ("calibrated", put("target_weight", 0, 1.5), {"it has weights below 0 or with a sum above 1"}),
]


@pytest.mark.parametrize(("family", "change", "expected"), CASES)
def test_broken_rules_are_named(
    own: SmallStore, family: str, change: Callable[[Columns], None], expected: set[str]
) -> None:
    artifact = f"calibrated/{NAME}" if family == "calibrated" else family
    columns = tables.columns(tables.read_table(own.layout.table(artifact, STEM)))
    change(columns)
    republish_with(own, artifact, STEM, columns=columns)
    assert kinds(own, f"{artifact}/{STEM}.parquet") == expected


def test_class_twice_in_a_row_is_named(own: SmallStore) -> None:
    columns = tables.columns(tables.read_table(own.layout.table("soft", STEM)))
    republish_with(own, "soft", STEM, columns={"class_1": columns["class_0"]})
    assert "it has a class twice in a row" in kinds(own, f"soft/{STEM}.parquet")


def test_sum_above_one_is_named(own: SmallStore) -> None:
    columns = tables.columns(tables.read_table(own.layout.table("soft", STEM)))
    both = {name: np.where(np.isnan(columns[name]), np.nan, 0.75) for name in ("prob_0", "prob_1")}
    republish_with(own, "soft", STEM, columns=both)
    told = "it has rows of probabilities with a sum above 1"
    assert told in kinds(own, f"soft/{STEM}.parquet")


def test_rows_digest_of_the_entry_is_checked(own: SmallStore) -> None:
    path = own.layout.entry("crops", STEM)
    entry = entries.read_entry(path)
    entries.publish(own.layout, replace(entry, rows_digest="0" * 32))
    entries.write_manifest(own.layout, "crops")
    told = "its rows are not those of its entry's rows digest"
    assert kinds(own, f"crops/{STEM}.parquet") == {told}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (put("class_id", 3, 5), "it has class ids that are not below 5"),
        (put("path", 3, "a"), "its paths are not sorted, or one stands there twice"),
        (put("image_id", 3, 4), "its images are not those of the shard"),
        (put("height", 3, 0), "it has images without a pixel"),
    ],
)
def test_images_are_checked(
    own: SmallStore, change: Callable[[Columns], None], expected: str
) -> None:
    table = tables.read_table(own.layout.table("images", "images"))
    columns = tables.columns(table)
    change(columns)
    entry = entries.read_entry(own.layout.entry("images", "images"))
    classes = own.layout.table("images", "classes").read_bytes()
    republish_with(own, "images", "images", columns=columns)
    changed = entries.read_entry(own.layout.entry("images", "images"))
    own.layout.table("images", "classes").write_bytes(classes)
    record = entry.files["classes.parquet"]
    files = {**changed.files, "classes.parquet": record}
    whole = replace(changed, files=files, key=entry.key, lineage=entry.lineage)
    described = {n: getattr(whole, n) for n in ("artifact", "stage", "key", "lineage")}
    path = own.layout.table("images", "images")
    rows = tables.read_table(path).replace_schema_metadata(None)
    tables.write_table(path, rows, {**described, "attributes": whole.attributes})
    files |= entries.file_records(path.parent, [path])
    entries.publish(own.layout, replace(whole, files=files))
    entries.write_manifest(own.layout, "images")
    assert kinds(own, "images/images.parquet") == {expected}


def lengthen(columns: Columns, num_images: int) -> Columns:
    """The rows, then so many more images, that go on counting."""
    added = {name: values[: 4 * num_images].copy() for name, values in columns.items()}
    added["image_id"] += 4
    return {name: np.concatenate([values, added[name]]) for name, values in columns.items()}


@pytest.mark.parametrize("artifact", ["crops", "soft", f"calibrated/{NAME}"])
@pytest.mark.parametrize(("change", "rows"), [(-1, 12), (1, 20)])
def test_every_image_of_a_shard_is_counted(
    own: SmallStore, artifact: str, change: int, rows: int
) -> None:
    """The last shard, whole in itself, with an image too few or one that there is not."""
    table = tables.read_table(own.layout.table(artifact, STEM))
    columns = tables.columns(table)
    other = (
        lengthen(columns, 1) if change > 0 else {n: values[:-4] for n, values in columns.items()}
    )
    republish_with(own, artifact, STEM, columns=other)
    told = f"holds {rows} rows instead of 16: 4 crops of each of 4 images"
    assert kinds(own, f"{artifact}/{STEM}.parquet") == {told}


def test_every_image_of_arrays_is_counted(own: SmallStore) -> None:
    entry = entries.read_entry(own.layout.entry("predictions", "part-00000"))
    short = Expected(0, 5, 4, own.table)
    (found,) = contents.check(own.layout, entry, short)
    assert found.kind == "holds 4 images instead of 5"


@pytest.mark.parametrize("error", [IndexError, StopIteration, RuntimeError, KeyError, TypeError])
def test_damage_never_ends_in_a_traceback(
    own: SmallStore, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error("what nobody foresaw")

    monkeypatch.setattr(contents, "_crops", fail)
    (told,) = kinds(own, f"crops/{STEM}.parquet")
    assert told.startswith("its rows cannot be checked (")


def test_progress_counts_rows(small: SmallStore) -> None:
    told: list[tuple[str, int]] = []

    class Watch(NoProgress):
        def start(self, label: str, total: int, unit: str) -> None:
            told.append((unit, total))

        def advance(self, amount: int = 1) -> None:
            told.append(("done", amount))

    verify.verify(small.root, Watch(), deep=True)
    rows = next(i for i, (unit, _) in enumerate(told) if unit == "rows")
    assert sum(n for _, n in told[1:rows]) == told[0][1]
    assert sum(n for _, n in told[rows + 1 :]) == told[rows][1] > 100

"""Verify finds parts that were not made from those beside them."""

import shutil
from dataclasses import replace
from pathlib import Path

from store import entries, tables
from store.overlay import Action
from store.schema import CALIBRATED, CROPS, INFER_REJECTS
from store.tables import make_table
from tests.store.check.found import STEM, damages, kinds
from tests.store.small_store import (
    NAME,
    REJECTED,
    SmallStore,
    build,
    crop_columns,
    overlay_columns,
    publish_rows,
    republish_with,
)


def republish(small: SmallStore, artifact: str, rows: object, inputs: dict[str, object]) -> None:
    publish_rows(small.layout, artifact, STEM, "stage-of-it", inputs, rows)
    entries.write_manifest(small.layout, artifact)


def test_parts_made_from_others_are_found(own: SmallStore) -> None:
    columns = crop_columns(own, 1)
    columns["top"] = columns["top"] + 1
    lineage = entries.read_entry(own.layout.entry("crops", STEM)).lineage
    republish(own, "crops", make_table(CROPS, columns), lineage["inputs"])
    assert kinds(own) == {
        (f"predictions/_{STEM}.json", "made from other crops"),
        (f"soft/_{STEM}.json", "made from other crops"),
    }


def test_labels_of_other_predictions_and_overlays_of_other_labels_are_found(
    own: SmallStore, tmp_path: Path
) -> None:
    other = build(tmp_path / "other" / "labels", seed=5)
    for artifact in ("predictions", f"calibrated/{NAME}"):
        shutil.rmtree(own.layout.folder(artifact))
        shutil.copytree(other.layout.folder(artifact), own.layout.folder(artifact))
    found = kinds(own)
    assert (f"soft/_{STEM}.json", "made from other predictions") in found
    assert (f"calibrated/{NAME}/_{STEM}.json", "made from other soft") in found


def test_parts_made_from_other_images_are_found(own: SmallStore) -> None:
    for artifact, name in (("crops", "images"), ("soft", "targets")):
        republish_with(own, artifact, STEM, inputs={name: "f"})
    assert kinds(own) == {
        (f"crops/_{STEM}.json", "made from other images"),
        (f"soft/_{STEM}.json", "made from other targets"),
    }


def test_rejected_rows_must_agree(own: SmallStore) -> None:
    actions = own.actions.copy()
    actions[REJECTED, 0] = Action.KEEP
    soft = entries.read_entry(own.layout.entry("soft", STEM)).rows_digest
    rows = make_table(CALIBRATED, overlay_columns(actions, 1))
    republish(own, f"calibrated/{NAME}", rows, {"soft": soft})
    kind = "its rejected rows are not those of predictions/part-00001"
    assert kinds(own) == {(f"calibrated/{NAME}/_{STEM}.json", kind)}


def test_list_of_rejects_must_agree(own: SmallStore) -> None:
    path = own.layout.table("predictions", "_rejects-00001")
    entry = entries.read_entry(own.layout.entry("predictions", STEM))
    empty: dict[str, list[object]] = {"image_id": [], "path": [], "reason": []}
    said = {name: getattr(entry, name) for name in ("artifact", "stage", "key", "lineage")}
    described = {**said, "attributes": entry.attributes}
    tables.write_table(path, make_table(INFER_REJECTS, empty), described)
    record = entries.file_records(path.parent, [path])
    entries.publish(own.layout, replace(entry, files={**entry.files, **record}))
    entries.write_manifest(own.layout, "predictions")
    kind = "its rejected rows are not those that _rejects-00001.parquet lists"
    assert kinds(own) == {(f"predictions/_{STEM}.json", kind)}


def test_a_part_of_other_parameters_is_found(own: SmallStore) -> None:
    """One shard made again after a parameter changed: every part is right, the whole is not."""
    republish_with(own, "soft", STEM, params={"k": 99})
    found = [damage for damage in damages(own.root) if "other parameters" in damage.kind]
    assert {damage.kind for damage in found} == {
        "made with other parameters (k) than soft elsewhere"
    }
    assert {damage.remedy for damage in found} == {"run `ferkd-pipeline stage compress`"}

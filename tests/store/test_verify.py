"""Verify finds every flipped bit, and every part that does not fit the others."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store import entries, tables, verify
from store.codecs import LabelSpec
from store.errors import DataError
from store.layout import Layout
from store.overlay import Action
from store.schema import CALIBRATED, CROPS, INFER_REJECTS
from store.tables import make_table
from tests.store.small_store import (
    NAME,
    REJECTED,
    SPEC,
    SmallStore,
    build,
    crop_columns,
    overlay_columns,
    publish_rows,
)

STEM = "part-00001"


class Watch:
    """Counts what verify tells."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def start(self, label: str, total: int, unit: str) -> None:
        assert (label, unit) == ("verify", "bytes")
        self.total = total

    def advance(self, amount: int = 1) -> None:
        self.done += amount


def damages(root: Path) -> list[verify.Damage]:
    return verify.verify(root, Watch()).damages


def kinds(small: SmallStore) -> set[tuple[str, str]]:
    """(file below the root, what is wrong) of all damages."""
    found = damages(small.root)
    assert all(damage.remedy for damage in found)
    return {(Path(d.file).relative_to(small.root).as_posix(), d.kind) for d in found}


def test_whole_store_is_whole(small: SmallStore) -> None:
    watch = Watch()
    result = verify.verify(small.root, watch)
    assert result.damages == []
    recorded = [
        record
        for artifact in verify.list_artifacts(small.layout)
        for entry in entries.list_entries(small.layout, artifact)
        for record in entry.files.values()
    ]
    assert result.num_files == len(recorded) > 30
    assert result.num_bytes == sum(record.num_bytes for record in recorded)
    assert watch.done == watch.total == result.num_bytes


@pytest.mark.parametrize(
    "spec", [replace(SPEC, kind="full"), replace(SPEC, kind="hard"), replace(SPEC, temperature=2.0)]
)
def test_whole_stores_of_other_kinds_are_whole(tmp_path: Path, spec: LabelSpec) -> None:
    assert damages(build(tmp_path / "labels", spec).root) == []


def test_every_flipped_bit_is_found(own: SmallStore) -> None:
    rng = np.random.default_rng(7)
    files = sorted(path for path in own.root.rglob("*") if path.is_file())
    originals = {path: path.read_bytes() for path in files}
    for number in range(300):
        # Each file in turn: by size alone, the small ones would hardly ever be hit.
        path = files[number % len(files)]
        data = bytearray(originals[path])
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        data[place] ^= 1 << bit
        path.write_bytes(data)
        assert damages(own.root), f"bit {bit} of byte {place} of {path}"
        path.write_bytes(originals[path])
    assert damages(own.root) == []


def flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "{less} bytes instead of {size}"),
        (lambda path: path.write_bytes(b""), "0 bytes instead of {size}"),
        (lambda path: path.unlink(), "missing"),
        (flip_last_byte, "its SHA-256 is not the recorded one"),
    ],
)
@pytest.mark.parametrize(
    "name",
    [f"soft/{STEM}.parquet", f"predictions/{STEM}.zarr/logp/c/0/0/0", "images/classes.parquet"],
)
def test_damaged_files_are_named(
    own: SmallStore, name: str, change: Callable[[Path], object], kind: str
) -> None:
    size = (own.root / name).stat().st_size
    change(own.root / name)
    assert kinds(own) == {(name, kind.format(size=size, less=size - 1))}


def test_swapped_files_are_found(own: SmallStore) -> None:
    one, other = (own.layout.table("crops", f"part-0000{i}") for i in (0, 1))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert {name for name, _ in kinds(own)} == {
        "crops/part-00000.parquet",
        "crops/part-00001.parquet",
    }


def test_swapped_entries_are_found(own: SmallStore) -> None:
    one, other = (own.layout.entry("crops", f"part-0000{i}") for i in (0, 1))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert {("crops/_part-00000.json", "damaged entry")} <= kinds(own)


def test_foreign_files_are_found(own: SmallStore) -> None:
    strays = [
        "soft/notes.txt",
        "soft/.part-00000.parquet.new-host-1.tmp",
        "soft/part-00009.parquet",
        f"predictions/{STEM}.zarr/logp/c/7",
        "predictions/_fit.json",
        f"calibrated/{NAME}/deep/x",
        "calibrated/x",
    ]
    for name in strays:
        (own.root / name).parent.mkdir(exist_ok=True)
        (own.root / name).write_bytes(b"x")
    (own.root / "soft" / ".gitignore").write_bytes(b"/part")
    found = kinds(own)
    assert {name for name, kind in found if kind == "belongs to no entry"} >= set(strays) - {
        "predictions/_fit.json"
    }
    assert {name for name, _ in found} == set(strays)


def test_lost_and_unrecorded_entries_are_found(own: SmallStore) -> None:
    own.layout.entry("soft", STEM).unlink()
    own.layout.manifest("crops").unlink()
    rows = make_table(CROPS, crop_columns(own, 0))
    publish_rows(own.layout, "rejects", "part-00007", "index", {}, rows)
    assert kinds(own) == {
        (f"soft/_{STEM}.json", "entry is not the recorded one"),
        (f"soft/{STEM}.parquet", "belongs to no entry"),
        ("crops/_manifest.json", "no manifest"),
        ("rejects/_manifest.json", "no manifest"),
    }
    entries.write_manifest(own.layout, "crops")
    (own.layout.manifest("crops")).write_bytes(b"{}")
    assert ("crops/_manifest.json", "damaged manifest") in kinds(own)


def test_unrecorded_part_is_found(own: SmallStore) -> None:
    manifest = own.layout.manifest("soft").read_bytes()
    rows = make_table(CROPS, crop_columns(own, 0))
    publish_rows(own.layout, "soft", "part-00007", "compress", {}, rows)
    own.layout.manifest("soft").write_bytes(manifest)
    assert ("soft/_part-00007.json", "not in the manifest") in kinds(own)


def test_changed_spelling_of_an_entry_is_found(own: SmallStore) -> None:
    path = own.layout.entry("crops", STEM)
    path.write_bytes(path.read_bytes().replace(b"1e-05", b"1E-05"))
    assert kinds(own) == {(f"crops/_{STEM}.json", "entry is not the recorded one")}


def test_unreadable_files_are_told(own: SmallStore) -> None:
    """A folder where a file should be: what a file system gives back is not always a file."""
    for path in (own.layout.entry("crops", STEM), own.layout.table("soft", STEM)):
        path.unlink()
        path.mkdir()
    found = kinds(own)
    assert (f"crops/_{STEM}.json", "cannot be read (Is a directory)") in found
    assert any(name == f"soft/{STEM}.parquet" for name, _ in found)


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
    for artifact, name in (("crops", "images"), ("soft", "targets"), ("predictions", "images")):
        path = own.layout.entry(artifact, STEM)
        digest = entries.read_entry(path).lineage["inputs"][name]
        path.write_text(path.read_text().replace(digest, "f" * 32))
        entries.write_manifest(own.layout, artifact)
    assert kinds(own) == {
        (f"crops/_{STEM}.json", "made from other images"),
        (f"predictions/_{STEM}.json", "made from other images"),
        (f"soft/_{STEM}.json", "made from other targets"),
    }


def test_rejected_rows_must_agree(own: SmallStore) -> None:
    actions = own.actions.copy()
    actions[REJECTED, 0] = Action.KEEP
    soft = entries.read_entry(own.layout.entry("soft", STEM)).rows_digest
    rows = make_table(CALIBRATED, overlay_columns(actions, 1))
    republish(own, f"calibrated/{NAME}", rows, {"soft": soft})
    kind = "its rejected rows are not those of the predictions"
    assert kinds(own) == {(f"calibrated/{NAME}/_{STEM}.json", kind)}


def test_list_of_rejects_must_agree(own: SmallStore) -> None:
    path = own.layout.table("predictions", "_rejects-00001")
    entry = entries.read_entry(own.layout.entry("predictions", STEM))
    empty: dict[str, list[object]] = {"image_id": [], "path": [], "reason": []}
    tables.write_table(path, make_table(INFER_REJECTS, empty), {})
    record = entries.file_records(path.parent, [path])
    entries.publish(own.layout, replace(entry, files={**entry.files, **record}))
    entries.write_manifest(own.layout, "predictions")
    kind = "its rejected rows are not those that _rejects-00001.parquet lists"
    assert kinds(own) == {(f"predictions/_{STEM}.json", kind)}


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no label store; run `ferkd-pipeline stage index`"):
        damages(tmp_path / "nothing")


def test_artifacts_are_listed(small: SmallStore) -> None:
    plain = ["images", "rejects", "crops", "predictions", "soft"]
    assert verify.list_artifacts(small.layout) == [*plain, f"calibrated/{NAME}"]
    assert verify.list_artifacts(Layout.beside(small.root / "nothing")) == []

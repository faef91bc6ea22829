"""The engine on a real project: what runs and why, what is set aside, and who may write."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from timm.models.resnet import ResNet

from ferkd_pipeline import engine, recording
from stages.shared.contract import NoProgress
from store import entries, lock
from store.check.verify import verify
from store.digest import sha256_json
from store.errors import DataError, ParamsError, RetryError, ShardError
from store.layout import part_name
from store.view.build import plan_view
from tests.children import end_of, start_child
from tests.world import SHARDED, Project, write_teacher

COMPLETE = ["complete"] * 3
CHANGED = ["parameters or inputs changed"] * 3


@pytest.fixture
def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResNet, "forward", None)


def actions(project: Project, stage: str, **changes: Any) -> list[str]:
    [outcome] = project.run(stage, **changes)
    return [shard.action for shard in outcome.shards]


def test_a_complete_store_stays_as_it_is(own: Project, no_forward: None) -> None:
    before = own.tree()
    times = {path: path.stat().st_mtime_ns for path in Path("labels").rglob("*")}
    for stage in SHARDED:
        assert set(own.why(stage)) == {"complete"}
        assert set(actions(own, stage)) == {"skip"}
    assert own.tree() == before
    assert {path: path.stat().st_mtime_ns for path in Path("labels").rglob("*")} == times
    assert verify(Path("labels"), NoProgress()).damages == []


def test_planning_says_why(own: Project) -> None:
    folder = own.layout.folder("soft")
    (folder / "_part-00000.json").unlink()
    (folder / "part-00001.parquet").unlink()
    data = (folder / "part-00002.parquet").read_bytes()
    (folder / "part-00002.parquet").write_bytes(data[:-1])
    assert own.why("compress") == [
        "not made yet",
        "part-00001.parquet is missing",
        f"part-00002.parquet has {len(data) - 1} bytes instead of {len(data)}",
    ]
    (folder / "_part-00001.json").write_text("{")
    assert own.why("compress")[1] == "its entry is damaged"
    plans = engine.plan_stage(own.params(), "sample", (2,), force=True)
    assert [(plan.shard, plan.action, plan.why) for plan in plans] == [(2, "run", "forced")]
    before = own.tree()
    own.why("compress")
    assert own.tree() == before


@pytest.mark.parametrize("damage", ["entry", "file", "truncated", "garbage"])
@pytest.mark.parametrize("stage", SHARDED)
def test_what_is_lost_is_made_again_byte_for_byte(own: Project, stage: str, damage: str) -> None:
    before = own.tree()
    artifact = {"sample": "crops", "infer": "predictions", "compress": "soft"}
    folder = own.layout.folder(artifact.get(stage, "calibrated/ferkd"))
    data = folder / (
        "part-00002.zarr/target_logp/c/1/0" if stage == "infer" else "part-00002.parquet"
    )
    if damage == "entry":
        (folder / "_part-00002.json").unlink()
    elif damage == "garbage":
        (folder / "_part-00002.json").write_bytes(b"\0\xff")
    elif damage == "file":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:-1])
    own.run(stage, shards=(2,))
    own.run(stage)
    assert own.tree() == before


@pytest.mark.parametrize(
    ("change", "outdated"),
    [
        ({"compress": {"k": 1}}, {"compress", "calibrate"}),
        ({"compress": {"precision": "float16"}}, {"compress", "calibrate"}),
        ({"calibrate": {"ferkd": [{"step": "ferkd"}]}}, {"calibrate"}),
        ({"infer": {"num_workers": 1}}, set()),
        ({"infer": {"block_images": 5}}, {"infer"}),  # and no bit of a prediction changes
        ({"sample": {"seed": 6}}, {"sample", "infer", "compress", "calibrate"}),
    ],
)
def test_a_parameter_reruns_the_stages_that_depend_on_it(
    own: Project, change: dict[str, Any], outdated: set[str]
) -> None:
    ran = {stage for stage in SHARDED if "run" in actions(own, stage, **change)}
    assert ran == outdated
    assert verify(Path("labels"), NoProgress()).damages == []


def test_compress_never_makes_infer_run(own: Project, no_forward: None) -> None:
    for k in (1, 3, 5):
        assert actions(own, "infer", compress={"k": k}) == ["skip"] * 3
        assert actions(own, "compress", compress={"k": k}) == ["run"] * 3


def test_another_teacher_sets_aside_and_takes_back(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = own.tree()
    shutil.copytree("models/teacher", "models/first")
    write_teacher(Path("models/teacher"), seed=1)
    assert own.why("infer") == CHANGED
    assert actions(own, "infer") == ["run"] * 3
    assert own.tree() != before
    shutil.rmtree("models/teacher")
    Path("models/first").rename("models/teacher")
    monkeypatch.setattr(ResNet, "forward", None)
    assert actions(own, "infer") == ["skip"] * 3
    assert own.tree() == before


def test_a_reverted_parameter_costs_no_forward(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = own.tree()
    own.run("infer", infer={"batch_size": 4})
    own.run("infer", shards=(1,), infer={"precision": "bf16"})
    monkeypatch.setattr(ResNet, "forward", None)
    assert actions(own, "infer") == ["skip"] * 3
    assert own.tree() == before
    assert actions(own, "infer", infer={"batch_size": 4}) == ["skip"] * 3


def test_fewer_shards_leave_nothing_stale(own: Project, no_forward: None) -> None:
    change: dict[str, Any] = {"store": {"num_shards": 2}}
    own.run(*SHARDED, **change)
    names = {path.name for path in Path("labels").rglob("*") if "00002" in path.name}
    assert names == set()
    assert verify(Path("labels"), NoProgress()).damages == []
    before = own.tree()
    own.run(*SHARDED)
    own.run(*SHARDED, **change)
    assert own.tree() == before


def test_more_shards_than_images(own: Project) -> None:
    with pytest.raises(ParamsError, match="there are only 25 images"):
        own.run("sample", store={"num_shards": 26})


def test_of_single_shards_the_last_one_writes_the_manifest(own: Project) -> None:
    before = own.tree()
    own.run("infer", shards=(1,), infer={"num_workers": 1})
    assert own.tree() == before
    for shard in (0, 1):
        own.layout.entry("predictions", part_name(shard)).unlink()
    [first] = own.run("infer", shards=(1,))
    assert not first.is_complete
    assert not own.layout.manifest("predictions").exists()
    [last] = own.run("infer", shards=(0,))
    assert last.is_complete
    assert own.tree() == before
    own.layout.manifest("predictions").unlink()
    outcome = recording.record_stage(own.params(), "infer")
    assert (outcome.stage, outcome.num_shards) == ("infer", 3)
    assert outcome.dvc == "not recorded with DVC: there is no dvc.yaml"
    assert own.tree() == before


@pytest.mark.parametrize("why", ["outdated", "stray", "a whole run", "inputs missing"])
def test_it_writes_none_where(own: Project, why: str) -> None:
    """Others are of other parameters, of no shard, or about to be changed."""
    for shard in (0, 1, 2):
        own.layout.entry("soft", part_name(shard)).unlink()
    own.layout.manifest("soft").unlink()
    own.run("compress", shards=(0, 1), compress={"k": 1 if why == "outdated" else 2})
    if why == "stray":
        entries.publish(own.layout, replace(own.entry("soft", 1), stem=part_name(7)))
    if why == "inputs missing":
        own.layout.entry("predictions", part_name(1)).unlink()
    with lock.hold(own.layout.stage_lock("compress" if why == "a whole run" else "other")):
        [outcome] = own.run("compress", shards=(2,))
    assert not outcome.is_complete
    assert not own.layout.manifest("soft").exists()


def test_the_last_of_calibrations_writes_each_manifest(own: Project) -> None:
    before = own.tree()
    for name in ("ferkd", "shares"):
        own.layout.manifest(f"calibrated/{name}").unlink()
    own.layout.entry("calibrated/shares", part_name(2)).unlink()
    assert not own.run("calibrate", shards=(0,))[0].is_complete
    assert own.run("calibrate", shards=(2,))[0].is_complete
    assert own.tree() == before


def test_a_shard_that_can_never_succeed_keeps_no_other_from_it(own: Project) -> None:
    shutil.rmtree("labels/predictions")
    for name in ("ant/0.jpg", "elk/1.png"):  # of the first and the last shard
        Path("images", name).unlink()
    notes: list[str] = []

    class Noting(NoProgress):
        def note(self, message: str) -> None:
            notes.append(message)

    with pytest.raises(ShardError) as caught:
        engine.run_stage(own.params(), "infer", None, progress=Noting())
    assert re.fullmatch(
        r"infer shard 0: 1 of 8 images .* ant/0\.jpg: .*; also failed, see above: infer shard 2",
        str(caught.value),
    )
    assert any(note.startswith("infer shard 2 failed: 1 of ") for note in notes)
    plans = engine.plan_stage(own.params(), "infer", None)
    assert [plan.action for plan in plans] == ["run", "skip", "run"]
    assert not own.layout.manifest("predictions").exists()
    with pytest.raises(ShardError, match=r"^1 of 8 images of part-00000 are unusable"):
        own.run("infer", shards=(0,))


def test_record_refuses_what_is_incomplete(own: Project) -> None:
    own.layout.entry("soft", part_name(1)).unlink()
    own.layout.manifest("soft").unlink()
    with pytest.raises(DataError, match=r"part-00001: not made yet.*stage compress --shard 1`"):
        recording.record_stage(own.params(), "compress")
    assert not own.layout.manifest("soft").exists()
    with pytest.raises(DataError, match=r"parameters or inputs changed.*infer --shard 0`"):
        recording.record_stage(own.params(infer={"batch_size": 2}), "infer")


def test_the_manifest_holds_every_entry(shared: Project) -> None:
    manifest = entries.read_manifest(shared.layout.manifest("predictions"))
    assert manifest == [shared.entry("predictions", shard) for shard in range(3)]
    raw = json.loads(shared.layout.manifest("predictions").read_bytes())
    assert list(raw)[-1] == "sha256"


def test_force_runs_what_is_complete(own: Project) -> None:
    before = own.tree()
    outcome = engine.run_stage(own.params(), "infer", None, progress=NoProgress(), force=True)
    assert [shard.action for shard in outcome.shards] == ["run"] * 3
    assert own.tree() == before


def test_what_was_counted_is_told_of_skipped_shards_too(own: Project) -> None:
    [first] = own.run("infer")
    assert {shard.action for shard in first.shards} == {"skip"}
    assert sum(int(str(shard.numbers["num_labelled_crops"])) for shard in first.shards) == 100
    assert first.lines[0].startswith("100 crops labelled")


@pytest.mark.parametrize(
    ("artifact", "stage"),
    [("crops", "sample"), ("predictions", "infer"), ("soft", "compress")],
)
def test_a_shard_that_another_process_writes(own: Project, artifact: str, stage: str) -> None:
    own.layout.entry(artifact, part_name(0)).unlink()
    before = own.tree()
    with lock.hold(own.layout.lock(artifact, part_name(0))):
        assert end_of(start_child("stage", stage, "--shard", "0")) == 75
        assert own.tree() == before
        with pytest.raises(RetryError, match=r"part-00000 is being written by process \d+ on "):
            own.run(stage, shards=(0,))
    assert end_of(start_child("stage", stage, "--shard", "0")) == 0


def test_two_processes_on_one_shard(own: Project) -> None:
    before = own.tree()
    shutil.rmtree("labels/predictions")
    children = [start_child("stage", "infer", "--shard", "1") for _ in range(3)]
    codes = sorted(end_of(child) for child in children)
    assert codes[0] == 0
    assert set(codes) <= {0, 75}
    own.run("infer")
    assert own.tree() == before


def test_exit_codes_of_commands(own: Project) -> None:
    assert end_of(start_child("stage", "infer", "--shard", "3")) == 2
    own.write_params(compress={"k": 1, "include_target": True, "kind": "hard"})
    assert end_of(start_child("stage", "compress")) == 2
    own.write_params()
    own.layout.entry("crops", part_name(0)).unlink()
    assert end_of(start_child("stage", "infer")) == 3
    own.run("sample")
    shutil.rmtree("labels/predictions")
    Path("images/ant/0.jpg").unlink()
    assert end_of(start_child("stage", "infer")) == 42


def test_shards_made_on_a_gpu_are_complete_for_a_machine_without(own: Project) -> None:
    for shard in range(3):
        path = own.layout.entry("predictions", part_name(shard))
        entry = json.loads(path.read_text())
        del entry["sha256"]
        entry["lineage"]["inputs"] |= {"device": "cuda", "resize": "device"}
        made = {"format": entry["format_version"], "stage": "infer", **entry["lineage"]}
        path.write_text(json.dumps({**entry, "key": sha256_json(made)}))
    assert own.why("infer", infer={"device": "auto"}) == ["complete"] * 3
    assert own.why("infer", infer={"device": "cpu"}) == ["parameters or inputs changed"] * 3
    recording.record_stage(own.params(infer={"device": "auto"}), "infer")
    with pytest.raises(ParamsError, match="was made on cuda"):
        auto = own.params(infer={"device": "auto"})
        engine.run_stage(auto, "infer", (1,), progress=NoProgress(), force=True)
    shutil.rmtree(own.layout.arrays("predictions", part_name(2)))
    own.run("infer", shards=(2,), infer={"device": "auto"})
    assert own.entry("predictions", 2).lineage["inputs"]["device"] == "cpu"


@pytest.mark.parametrize("name", ["_rejects-00007.parquet", "part-00007.zarr/x/c/0"])
def test_a_whole_run_removes_remnants_of_shards_that_are_no_more(own: Project, name: str) -> None:
    stray = own.layout.folder("predictions") / name
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"left by a run that was killed")
    own.run("infer")
    assert not stray.exists()
    assert verify(Path("labels"), NoProgress()).damages == []


@pytest.mark.parametrize("stage", ["calibrate", "train"])
def test_labels_of_other_predictions_are_refused(own: Project, stage: str) -> None:
    write_teacher(Path("models/teacher"), seed=1)
    own.run("infer")
    with pytest.raises(DataError, match=r"_part-00000\.json was made from other predictions"):
        if stage == "calibrate":
            own.run("calibrate")
        else:
            plan_view(own.layout, 3, Path("images"))

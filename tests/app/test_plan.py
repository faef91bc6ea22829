"""`ferkd-pipeline plan`: a few images through every stage, and what that says of all of them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferkd_pipeline import cli
from ferkd_pipeline.commands.plan import plan as command
from ferkd_pipeline.planning import measured, words
from ferkd_pipeline.planning.estimate import estimate
from ferkd_pipeline.planning.measured import Sample, Weighed
from ferkd_pipeline.planning.small_store import PartSize, part_size
from stages.infer.config import Config as InferConfig
from stages.infer.measure import Measured
from stages.infer.probe import Scale, scale
from stages.infer.run import open_inputs
from stages.train.step_speed import StepSpeed
from store.images import ImageTable
from tests.world import NETWORK, NUM_CROPS, NUM_IMAGES, Project

TRAIN = {
    "model": {**NETWORK, "input_size": [32, 32]},
    "lr": 0.1,
    "epochs": 8,
    "batch_size": 8,
    "crops_per_image": 2,
    "calibration": "shares",
}


def run(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["plan", "--seconds", "1", *given])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_options_are_frozen() -> None:
    options = {option for each in command.params for option in each.opts}
    assert options == {"--seconds", "--gpus", "--no-train", "--params", "--json"}


def test_the_command_is_one_call(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def called(values: Any, seconds: float, _: object, *, with_train: bool) -> Any:
        calls.append((values.path, seconds, with_train))
        raise KeyboardInterrupt

    monkeypatch.setattr(measured, "measure_all", called)
    assert cli.main(["plan", "--seconds", "3", "--no-train"]) == 130
    assert cli.main(["plan"]) == 130
    assert calls == [(Path("params.yaml"), 3.0, False), (Path("params.yaml"), 30.0, True)]


def test_a_plan_is_near_what_the_stages_take(
    own: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny store is taken through the stages whole, so bytes must be those that it has."""
    monkeypatch.setenv("FERKD_CACHE", "cache")
    fast = Measured("cpu", 25, 100, 0.01, 20_000.0, {}, 30.0)  # however busy this machine is
    monkeypatch.setattr(measured, "measure", lambda *_: fast)
    monkeypatch.setattr(measured, "scale", lambda *_: Scale(8, NUM_CROPS))
    own.write_params(train=TRAIN)
    before = own.tree("labels", ".ferkd")
    code, out, _ = run(capsys, "--json")
    assert code == 0
    assert own.tree("labels", ".ferkd") == before  # nothing is kept
    assert not Path("cache").exists()
    found = json.loads(out)
    assert (found["num_images"], found["num_crops"], found["num_shards"]) == (25, 100, 3)
    by_name = {(each["stage"], each["name"]): each for each in found["stages"]}
    assert list(by_name) == [
        ("sample", None),
        ("infer", None),
        ("compress", None),
        ("calibrate", "ferkd"),
        ("calibrate", "shares"),
        ("view", None),
        ("train", None),
    ]
    # Predictions less exactly: their entry lists a file a block, and shards here have few blocks.
    folders = {"sample": ("crops", 0.1), "infer": ("predictions", 0.3), "compress": ("soft", 0.2)}
    for stage, (folder, within) in folders.items():
        taken = sum(
            path.stat().st_size
            for path in Path("labels", folder).rglob("*")
            if path.is_file() and path.name != "_manifest.json"
        )
        assert by_name[stage, None]["num_bytes"] == pytest.approx(taken, rel=within)
    assert by_name["train", None]["num_crops"] == 8 * NUM_IMAGES
    assert found["num_bytes"] == sum(each["num_bytes"] for each in found["stages"])
    assert found["cpu_hours"] == pytest.approx(sum(each["hours"] for each in found["stages"]))
    [disk] = found["disks"]
    assert disk["has_room"] and disk["num_present"] > 0
    assert found["not_measured"] == []


def test_text_is_narrow_and_says_what_was_measured(
    own: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    own.write_params(train=TRAIN)
    code, out, err = run(capsys, "--gpus", "8")
    assert code == 0
    assert "25 images of 5 classes, 4 crops of each: 100 crops in 3 shards" in out
    assert re.search(r"measured on [0-9,]+ crops of [0-9]+ images", out)
    assert "With 8 processes infer takes" in out
    assert "store.num_shards is 3: 5 of these 8 would have nothing to do" in out
    table = out[out.index("stage ") : out.index("Time:")]
    assert max(map(len, table.splitlines())) <= 80
    assert re.search(r"the teacher is right on \d+ of \d+ images", err)  # the short look


def test_what_cannot_be_measured_is_told(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [{"step": "select", "scores": "somebodys"}]
    own.write_params(
        calibrate={"ferkd": None, "shares": None, "chosen": steps},
        train=TRAIN | {"calibration": None},
    )
    code, out, _ = run(capsys, "--no-train")
    assert code == 0
    assert "Not measured: calibrate: " in out and "scores" in out
    assert "view" in out and "train" not in out


def test_what_a_plan_needs(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("labels/crops")  # crops need not exist
    assert run(capsys, "--no-train")[0] == 0
    assert not Path("labels/crops").exists()
    shutil.rmtree("labels")
    code, _, err = run(capsys)
    assert code == 3 and "run `ferkd-pipeline stage index` first" in err
    own.write_params(infer=None)
    code, _, err = run(capsys)
    assert code == 2 and "has no section `infer`" in err


def test_a_slow_teacher_is_measured_on_less(
    shared: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shared.params(infer={"batch_size": 256}).typed("infer", InferConfig)
    inputs = open_inputs(config, shared.source())(0)
    for rate, seconds, expected in (
        (1000.0, 10.0, Scale(256, NUM_CROPS)),
        (100.0, 10.0, Scale(62, NUM_CROPS)),
        (1.0, 10.0, Scale(1, 2)),
        (0.01, 10.0, Scale(1, 1)),
    ):
        monkeypatch.setattr("stages.infer.probe._rate", lambda *_, rate=rate: rate)
        assert scale(config, inputs, seconds) == expected


def table_of(num_images: int) -> ImageTable:
    numbers = np.arange(num_images, dtype=np.int32)
    paths = np.array([f"a/{number:06}" for number in numbers], dtype=object)
    return ImageTable(paths, numbers % 10, numbers + 9, numbers + 9, None, tuple("abcdefghij"))


def sample_of(num_images: int, *, device: str = "cpu", step: StepSpeed | None = None) -> Sample:
    infer = Measured(device, 600, 60_000, 30.0, 2500.0, {}, 25.0)  # 2,000 crops/s
    stages = (
        Weighed("sample", None, 2.0, 60_000, 600, PartSize(300_000, 5_000)),
        Weighed("infer", None, 99.0, 60_000, 600, PartSize(6_000_000, 7_000)),
        Weighed("calibrate", "a", 1.0, 400, 4, PartSize(400, 1_000)),
        Weighed("view", None, 1.0, 60_000, 600, PartSize(1_200_000, 9_000), "view"),
    )
    return Sample(table_of(num_images), Scale(256, 100), infer, stages, step, ())


def test_scaling_up(own: Project) -> None:
    values = own.params(
        store={"num_shards": 40},
        sample={"num_crops": 100},
        infer={"block_images": 700},
        train=TRAIN,
    )
    step = StepSpeed(100.0, 8, "Some GPU")
    plan = estimate(values, sample_of(36_000, device="Some GPU", step=step), 7)
    assert plan.num_crops == 3_600_000
    lines = {line.stage: line for line in plan.lines}
    assert lines["sample"].hours == pytest.approx(2 * 60 / 3600)
    assert lines["sample"].num_bytes == 300_000 * 60 + 5_000 * 40
    assert lines["infer"].hours == pytest.approx(0.5) and lines["infer"].unit == "GPU"
    assert lines["infer"].num_bytes == 6_000_000 * 60 + 7_000 * 40
    assert lines["view"].num_bytes == 1_200_000 * 60 + 9_000  # of all shards one
    assert lines["calibrate"].is_upper_bound and not lines["sample"].is_upper_bound
    assert lines["train"].num_crops == 8 * 36_000
    assert lines["train"].hours == pytest.approx(8 * 36_000 / 100 / 3600)
    assert plan.hours("GPU") == pytest.approx(0.5 + lines["train"].hours)
    assert plan.shard_seconds == pytest.approx(45)
    assert plan.infer_wall_hours == pytest.approx(6 * 45 / 3600)  # 40 shards, 7 at a time
    assert plan.block_seconds == pytest.approx(700 * 100 / 2000)
    assert plan.lost_seconds == 30  # not the block's 35
    shown = "\n".join(words.lines(plan))
    assert "A shard takes 45 s; a kill loses 30 s at most." in shown
    assert "With 7 GPUs infer takes 4.5 min" in shown
    cells = words.stages(plan).rows
    assert ("calibrate a", "3,600,000", "< 2.5 h", "CPU", "< 3.6 MB") in cells


def test_a_disk_without_room_is_told(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    values = own.params(store={"num_shards": 40}, sample={"num_crops": 100})
    usage = shutil.disk_usage(".")._replace(free=400_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    plan = estimate(values, sample_of(36_000), 1)
    [disk] = plan.disks
    assert disk.num_bytes == plan.num_bytes == 60 * 7_500_000 + 3_600_000 + 40 * 13_000 + 9_000
    assert not disk.has_room
    [warning] = words.warnings(plan)
    assert warning.startswith("labels has room for 400.0 MB, and 454.0 MB are still to be written")
    roomy = estimate(values, sample_of(3_600), 1)
    assert words.warnings(roomy) == []


def test_footers_and_rows_are_told_apart(shared: Project) -> None:
    small, large = part_size(Path("labels/crops")), part_size(Path("labels/predictions"))
    files = [path for path in Path("labels/crops").iterdir() if path.name != "_manifest.json"]
    assert small.of_rows + small.of_part == sum(path.stat().st_size for path in files)
    assert 0 < small.of_rows < small.of_part  # 100 crops
    assert large.of_rows > 100 * (8 + 4 + 2)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        *[(0, "0 s"), (0.03, "<0.1 s"), (4.04, "4.0 s"), (59, "59 s"), (150, "2.5 min")],
        *[(3000, "50 min"), (7200, "2.0 h"), (720_000, "200 h"), (7_200_000, "2,000 h")],
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert words.duration(seconds / 3600) == expected

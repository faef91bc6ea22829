"""The stages teacher, train, evaluate and compare: what they write, and that it repeats."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from stages.compare import core
from stages.compare import run as compare
from stages.compare.config import Config as CompareConfig
from stages.evaluate import run as evaluate
from stages.evaluate.config import Config as EvaluateConfig
from stages.shared.contract import NoProgress
from stages.shared.model_config import ModelConfig
from stages.shared.training.batches import Labels, StoredCrops
from stages.shared.training.config import LearnerConfig
from stages.shared.training.learner import Learned, learn
from stages.teacher import run as teacher
from stages.teacher.config import Config as TeacherConfig
from stages.train import run as train
from stages.train.config import Config as TrainConfig
from store.errors import DataError, ParamsError
from tests.stages.training_world import (
    CLASS_NAMES,
    NETWORK,
    FakeView,
    image_table,
    write_images,
)

TRAINING: dict[str, Any] = {
    "model": NETWORK,
    "batch_size": 12,
    "crops_per_image": 2,
    "steps": 6,
    "eval_every": 3,
    "lr": 0.02,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    for seed, split in enumerate(("train", "val", "test")):
        write_images(path / split, num_per_class=4, seed=seed)
    return path


@pytest.fixture(scope="module")
def view(data: Path) -> FakeView:
    return FakeView(data / "train", image_table(data / "train"))


@pytest.fixture(scope="module")
def teacher_outputs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> teacher.Outputs:
    root = tmp_path_factory.mktemp("teacher")
    outputs = teacher.Outputs(model=root / "models" / "teacher", metrics=root / "metrics")
    inputs = teacher.Inputs(image_table(data / "train"), data / "train", data / "val")
    report = teacher.run(TeacherConfig(**TRAINING), inputs, outputs, NoProgress())
    assert report.lines[0].startswith("teacher resnet18 (")
    assert report.lines[0].endswith(" % on val after 6 steps of 12 crops")
    return outputs


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_teacher_leaves_a_model_and_metrics(teacher_outputs: teacher.Outputs) -> None:
    summary = json.loads((teacher_outputs.metrics / "summary.json").read_bytes())
    assert summary["steps"] == 6
    assert summary["num_images"] == 12
    assert 0 <= summary["top1"] <= 1
    curve = rows(teacher_outputs.metrics / "curve.csv")
    assert [row["step"] for row in curve] == ["3", "6"]
    assert float(curve[-1]["top1"]) == summary["top1"]
    assert (teacher_outputs.model / "model.safetensors").is_file()


def student(view: FakeView, data: Path, root: Path, **fields: Any) -> train.Outputs:
    outputs = train.Outputs(model=root / "student", metrics=root / "metrics")
    inputs = train.Inputs(CLASS_NAMES, view, evaluation=data / "val")
    train.run(TrainConfig(**{**TRAINING, **fields}), inputs, outputs, NoProgress())
    return outputs


def test_student_repeats_byte_for_byte(view: FakeView, data: Path, tmp_path: Path) -> None:
    first = student(view, data, tmp_path / "a")
    second = student(view, data, tmp_path / "b", num_workers=1)
    assert files(first.metrics) == files(second.metrics)
    assert (first.model / "model.safetensors").read_bytes() == (
        second.model / "model.safetensors"
    ).read_bytes()
    hard = student(view, data, tmp_path / "c", labels="truth")
    assert files(hard.metrics) != files(first.metrics)


def test_evaluate_agrees_with_training(
    teacher_outputs: teacher.Outputs, data: Path, tmp_path: Path
) -> None:
    sets = {"val": data / "val", "test": data / "test"}
    config = EvaluateConfig(sets={name: str(path) for name, path in sets.items()}, device="cpu")
    inputs = evaluate.Inputs(teacher_outputs.model, sets)
    report = evaluate.run(config, inputs, tmp_path / "evaluate", NoProgress())
    summary = json.loads((tmp_path / "evaluate" / "summary.json").read_bytes())
    trained = json.loads((teacher_outputs.metrics / "summary.json").read_bytes())
    assert summary["val"] == {name: trained[name] for name in ("top1", "top5", "num_images")}
    assert report.numbers == summary
    assert list(summary) == ["val", "test"]
    classes = rows(tmp_path / "evaluate" / "classes.csv")
    assert [(row["set"], row["class"]) for row in classes] == [
        (name, class_name) for name in sets for class_name in CLASS_NAMES
    ]
    shares = [float(row["top1"]) for row in classes if row["set"] == "val"]
    assert sum(shares) / 3 == pytest.approx(summary["val"]["top1"], abs=1e-5)


def test_evaluate_at_another_size(teacher_outputs: teacher.Outputs, data: Path) -> None:
    from stages.shared import models

    spec = models.load_model(teacher_outputs.model).spec
    config = EvaluateConfig(sets={"val": "val"}, input_size=(20, 24), crop_ratio=0.5)
    changed = evaluate._input_spec(config, spec)
    assert changed.size == (20, 24)
    assert changed.crop_ratio == 0.5
    assert changed.mean == spec.mean


def test_evaluate_names_an_unknown_class(teacher_outputs: teacher.Outputs, tmp_path: Path) -> None:
    write_images(tmp_path / "val", num_per_class=1)
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "purple")
    config = EvaluateConfig(sets={"val": str(tmp_path / "val")})
    inputs = evaluate.Inputs(teacher_outputs.model, {"val": tmp_path / "val"})
    with pytest.raises(DataError, match="purple"):
        evaluate.run(config, inputs, tmp_path / "out", NoProgress())
    assert not (tmp_path / "out").exists()


def run_compare(
    view: FakeView, data: Path, output: Path, *, model: Path | None = None, **fields: Any
) -> Any:
    views = {
        "store": view,
        "sure": FakeView(view.folder, view.images, certainty=0.9, calibration="sure"),
    }
    config = CompareConfig(
        **{
            "arms": ("truth", "store", "sure"),
            "seeds": (0, 5),
            "val": str(data / "val"),
            "test": str(data / "test"),
            "timing_rounds": 0,
            **fields,
        }
    )
    inputs = compare.Inputs(
        views, CLASS_NAMES, LearnerConfig(**TRAINING), data / "val", data / "test", model
    )
    return compare.run(config, inputs, output, NoProgress())


def test_compare_writes_what_it_saw(
    view: FakeView, data: Path, tmp_path: Path, teacher_outputs: teacher.Outputs
) -> None:
    report = run_compare(
        view, data, tmp_path / "out", model=teacher_outputs.model, timing_rounds=2, timing_steps=1
    )
    found = json.loads((tmp_path / "out" / "compare.json").read_bytes())
    assert found == report.numbers
    assert found["steps"] == 6
    assert found["num_crops"] == 72
    assert list(found["top1"]) == ["truth", "store", "sure"]
    assert list(found["paired"]) == ["store - truth", "sure - truth", "sure - store"]
    curves = rows(tmp_path / "out" / "curves.csv")
    assert len(curves) == 3 * 2 * 2
    for arm in found["top1"]:
        last = [float(r["top1"]) for r in curves if r["arm"] == arm and r["step"] == "6"]
        assert last == pytest.approx(found["top1"][arm]["val"]["values"], abs=1e-6)
    means = rows(tmp_path / "out" / "curves_mean.csv")
    assert [(row["arm"], row["step"], row["n"]) for row in means] == [
        (arm, step, "2") for arm in ("truth", "store", "sure") for step in ("3", "6")
    ]
    timing = json.loads((tmp_path / "out" / "timing.json").read_bytes())
    assert set(timing["seconds_per_step"]) == {"truth", "store", "online teacher"}
    assert timing["ratio_to_truth"]["truth"] == 1
    assert len(report.lines) == 3 + 3 + 1
    assert report.lines[0].startswith("truth: top-1 ")
    assert "on test (2 seeds); at step 3 " in report.lines[0]
    assert report.lines[3].startswith("store - truth, seed by seed: ")
    assert report.lines[-1].startswith("time per step, data included: truth ")


def test_compare_repeats_byte_for_byte(view: FakeView, data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_compare(view, data, tmp_path / name, arms=("truth", "store"), seeds=(3,))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert set(files(tmp_path / "a")) == {
        "compare.json",
        "curves.csv",
        "curves_mean.csv",
        "timing.json",
    }
    timing = json.loads((tmp_path / "a" / "timing.json").read_bytes())
    assert timing["rounds"] == 0
    assert timing["seconds_per_step"] == {}
    found = json.loads((tmp_path / "a" / "compare.json").read_bytes())
    assert found["top1"]["truth"]["test"]["std"] is None


def test_an_arm_is_what_train_would_train(view: FakeView, data: Path, tmp_path: Path) -> None:
    run_compare(view, data, tmp_path / "out", arms=("store",), seeds=(0,))
    found = json.loads((tmp_path / "out" / "compare.json").read_bytes())
    alone = student(view, data, tmp_path / "alone")
    summary = json.loads((alone.metrics / "summary.json").read_bytes())
    assert found["top1"]["store"]["val"]["values"] == [summary["top1"]]
    in_arm = [row["top1"] for row in rows(tmp_path / "out" / "curves.csv")]
    assert in_arm == [row["top1"] for row in rows(alone.metrics / "curve.csv")]


def test_every_arm_and_seed_is_a_training_of_its_own(
    view: FakeView, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[str, list[float]] = {}

    def recorded(*args: Any, label: str, **kwargs: Any) -> Learned:
        learned = learn(*args, label=label, **kwargs)
        losses[label] = learned.history.losses
        return learned

    monkeypatch.setattr(compare, "learn", recorded)
    run_compare(view, data, tmp_path / "out")
    sure = FakeView(view.folder, view.images, certainty=0.9)
    labels: Labels
    for name, source_view, labels in (
        ("truth", view, "truth"),
        ("store", view, "store"),
        ("sure", sure, "store"),
    ):
        for seed in (0, 5):
            given = LearnerConfig(**TRAINING, seed=seed)
            source = StoredCrops(source_view, seed, labels)
            alone = learn(given, source, evaluation=None, progress=NoProgress(), label="alone")
            assert losses[f"{name}, seed {seed}"] == alone.history.losses
    assert len(losses) == 6


def test_an_unknown_arm_is_named(view: FakeView, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"has 'nobody'.*allowed: truth, store, online, sure"):
        run_compare(view, data, tmp_path / "out", arms=("truth", "nobody"))
    assert not (tmp_path / "out").exists()


def test_temperatures_must_agree(view: FakeView, data: Path, tmp_path: Path) -> None:
    warm = FakeView(view.folder, view.images, temperature=4.0)
    with pytest.raises(ParamsError, match="stored at 4"):
        student(warm, data, tmp_path)
    mixed = FakeView(view.folder, view.images, temperature=4.0, calibration="sure")
    with pytest.raises(ParamsError, match="allowed with the calibration sure: 1"):
        student(mixed, data, tmp_path, temperature=4.0)
    student(warm, data, tmp_path, temperature=4.0, steps=1)


def test_statistics() -> None:
    summary = core.Summary((0.1, 0.2, 0.6))
    assert summary.mean == pytest.approx(0.3)
    assert summary.deviation == pytest.approx(math.sqrt(0.07))
    assert summary.standard_error == pytest.approx(math.sqrt(0.07 / 3))
    assert core.Summary((0.5,)).difference() == {"mean": 0.5, "standard_error": None, "n": 1}


def test_paired_differences_go_seed_by_seed() -> None:
    pairs = core.paired({"truth": [0.1, 0.5], "store": [0.3, 0.6], "cal": [0.2, 0.9]})
    assert list(pairs) == [("store", "truth"), ("cal", "truth"), ("cal", "store")]
    assert pairs["store", "truth"].values == pytest.approx((0.2, 0.1))
    assert pairs["cal", "store"].values == pytest.approx((-0.1, 0.3))
    assert core.paired({"store": [0.1], "cal": [0.3]}).keys() == {("cal", "store")}


def test_numbers_for_people() -> None:
    assert core.with_error(0.6684, 0.011) == "66.8 ± 1.1"
    assert core.with_error(0.059, None, signed=True) == "+5.9"
    assert core.with_error(-0.012, 0.022, signed=True) == "-1.2 ± 2.2"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arms": ("truth", "truth")}, "each value once"),
        ({"seeds": (1, 1)}, "each value once"),
        ({"seeds": (-1,)}, "0 to 2"),
        ({"arms": ()}, "at least 1"),
    ],
)
def test_impossible_comparisons_are_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompareConfig(**{"val": "val", **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (0.5, 0.1)}, "smallest <= largest"),
        ({"ratio": (0.0, 1.0)}, "smallest <= largest"),
        ({"kind": "random_crop"}, "size is missing"),
        ({"temperature": 2.0}, "nobody teaches the teacher"),
    ],
)
def test_impossible_teachers_are_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherConfig(**{**TRAINING, **fields})


def test_impossible_students_are_told() -> None:
    with pytest.raises(ValueError, match="mix teacher and ground truth"):
        TrainConfig(**TRAINING, calibration="ferkd", temperature=2.0)
    with pytest.raises(ValueError, match="allowed with labels truth: 1"):
        TrainConfig(**TRAINING, labels="truth", temperature=2.0)


def test_configs_need_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, stages.teacher.config, stages.train.config, stages.evaluate.config, "
        "stages.compare.config; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pyarrow', 'timm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_network_config_is_the_shared_one() -> None:
    assert isinstance(TrainConfig(**TRAINING).model, ModelConfig)


def test_an_online_teacher_is_an_arm(
    view: FakeView, data: Path, teacher_outputs: teacher.Outputs, tmp_path: Path
) -> None:
    network = ModelConfig(**NETWORK, weights=str(teacher_outputs.model))
    student_config = TrainConfig(**TRAINING, online_teacher=network)
    inputs = compare.Inputs(
        {"store": view},
        CLASS_NAMES,
        student_config,
        data / "val",
        online_teacher=student_config.online_teacher,
    )
    given = CompareConfig(arms=("truth", "online"), seeds=(0,), val="val", timing_rounds=0)
    report = compare.run(given, inputs, tmp_path / "out", NoProgress())
    assert any(line.startswith("online - truth, seed by seed: ") for line in report.lines)
    curves = rows(tmp_path / "out" / "curves.csv")
    assert {row["arm"] for row in curves} == {"truth", "online"}
    with pytest.raises(ParamsError, match=r"'online', but train\.online_teacher is not given"):
        run_compare(view, data, tmp_path / "none", arms=("online",))

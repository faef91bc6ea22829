"""When the results of a stage that runs as a whole still fit, and when they do not."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ferkd_pipeline import fingerprints, whole_stages
from ferkd_pipeline.whole.prepare import prepare
from stages.shared.contract import NoProgress, Report
from stages.train.config import Config
from store.errors import DataError, FerkdError, ParamsError
from store.inspection import collect
from tests.world import NETWORK, Project, copy_project, merged, write_images, write_teacher

TRAIN: dict[str, Any] = {
    "model": {**NETWORK, "input_size": 32},
    "evaluation": "val",
    "batch_size": 8,
    "crops_per_image": 2,
    "steps": 1,
    "lr": 0.01,
    "device": "cpu",
}
SECTIONS: dict[str, Any] = {
    "teacher": TRAIN,
    "train": TRAIN,
    "evaluate": {"sets": {"val": "val"}, "device": "cpu"},
    "compare": {"arms": ["store"], "seeds": [0], "val": "val", "timing_rounds": 0},
}
CHANGED = "parameters or inputs changed"


@pytest.fixture
def trained(own: Project) -> Project:
    """A project with sets to measure on and a finished student."""
    write_images(Path("val"), num=1)
    run(own, "train")
    return own


def run(project: Project, name: str, **changes: Any) -> None:
    params = project.params(**merged(SECTIONS, changes))
    whole_stages.run(params, name, NoProgress())


def why(project: Project, name: str, **changes: Any) -> str | None:
    return whole_stages.why_incomplete(project.params(**merged(SECTIONS, changes)), name)


@pytest.mark.parametrize("in_folder", [True, False])
def test_other_weights_of_the_same_name_count(trained: Project, in_folder: bool) -> None:
    write_teacher(Path("given"), seed=1)
    path = "given" if in_folder else "given/model.safetensors"
    changes: dict[str, Any] = {"train": {"model": {"weights": path}}}
    run(trained, "train", **changes)
    run(trained, "compare", **changes)
    assert (why(trained, "train", **changes), why(trained, "compare", **changes)) == (None, None)
    write_teacher(Path("given"), seed=2)
    assert why(trained, "train", **changes) == why(trained, "compare", **changes) == CHANGED
    shutil.rmtree("given")
    with pytest.raises(DataError, match=r"given.*: no such file of weights"):
        why(trained, "train", **changes)


def test_other_weights_of_a_teacher_count(trained: Project) -> None:
    write_teacher(Path("given"), seed=1)
    changes: dict[str, Any] = {"teacher": {"model": {"weights": "given"}}}
    run(trained, "teacher", **changes)
    assert why(trained, "teacher", **changes) is None
    write_teacher(Path("given"), seed=2)
    assert why(trained, "teacher", **changes) == CHANGED


def test_a_failed_run_forgets_nothing(trained: Project) -> None:
    with pytest.raises(ParamsError):
        run(trained, "train", train={"optimizer": "adamwx"})
    assert why(trained, "train") is None
    assert why(trained, "train", train={"optimizer": "adamwx"}) == CHANGED


def test_a_run_that_fails_half_way_is_not_complete(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics are published, then the model is not: the mark names neither the old nor the new."""

    def fail(*_: object, **__: object) -> None:
        raise FerkdError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("stages.train.run.save", fail)
        with pytest.raises(FerkdError):
            run(trained, "train", train={"seed": 1})
    assert why(trained, "train", train={"seed": 1}) == f"{CHANGED}; goes on from a checkpoint"
    assert why(trained, "train") == "its results are missing or were changed"


def test_times_of_images_do_not_count_but_contents_do(trained: Project) -> None:
    path = next(Path("val").rglob("*.jpg"))
    os.utime(path, (1, 1))
    assert why(trained, "train") is None
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, (1, 1))
    assert why(trained, "train") == CHANGED


@pytest.mark.parametrize("limit", ["MAX_FILES_HASHED", "MAX_BYTES_HASHED"])
def test_of_large_folders_times_count(
    own: Project, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(Path("val"), num=1)
    monkeypatch.setattr(fingerprints, limit, 1)
    path = next(Path("val").rglob("*.jpg"))
    before = fingerprints.of_folder(Path("val"), "train.evaluation")
    assert fingerprints.of_folder(Path("val"), "train.evaluation") == before
    os.utime(path, (1, 1))
    assert fingerprints.of_folder(Path("val"), "train.evaluation") != before


def test_a_copy_of_a_project_is_as_complete(trained: Project, tmp_path: Path) -> None:
    run(trained, "evaluate")
    here = Path("models/student/model.json").read_bytes()
    copied = copy_project(trained, tmp_path / "elsewhere")
    with contextlib.chdir(copied.folder):
        for path in Path("val").rglob("*"):
            os.utime(path, (1, 1))
        assert (why(copied, "train"), why(copied, "evaluate")) == (None, None)
        run(copied, "train")
        assert Path("models/student/model.json").read_bytes() == here


@pytest.mark.parametrize("name", ["teacher", "train", "evaluate", "compare"])
def test_auto_is_the_device_that_it_stands_for(
    trained: Project, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = "train" if name == "compare" else name
    changes: dict[str, Any] = {section: {"device": "auto"}}
    keys = []
    for has_gpu in (False, True):
        monkeypatch.setattr("torch.cuda.is_available", lambda has_gpu=has_gpu: has_gpu)
        params = trained.params(**merged(SECTIONS, changes))
        keys.append(whole_stages._key(params, name, prepare(params, name)))
    assert keys[0] != keys[1]


def test_a_missing_folder_is_named_with_its_key(own: Project) -> None:
    with pytest.raises(DataError, match=r"^nowhere does not exist; .* change compare\.val in"):
        fingerprints.of_folder(Path("nowhere"), "compare.val")


# Results of trainings, kept: DVC deletes outputs before it runs a command.


OUTPUTS = ("models/student", "metrics/train")


def delete_outputs() -> None:
    for path in OUTPUTS:
        shutil.rmtree(path)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the students that are trained from now on."""
    from stages.train import run as stage

    seen: list[int] = []
    train = stage.run

    def watched(config: Config, *more: Any) -> Report:
        seen.append(config.seed)
        return train(config, *more)

    monkeypatch.setattr(stage, "run", watched)
    return seen


def test_a_student_is_not_trained_twice(trained: Project, trainings: list[int]) -> None:
    before = trained.tree(*OUTPUTS)
    delete_outputs()
    assert why(trained, "train") is not None
    report = whole_stages.run(trained.params(**SECTIONS), "train", NoProgress())
    assert trained.tree(*OUTPUTS) == before
    assert (trainings, why(trained, "train")) == ([], None)
    assert "student resnet18" in report.lines[0]
    run(trained, "train", train={"seed": 3})
    assert trained.tree(*OUTPUTS) != before
    run(trained, "train")
    assert trained.tree(*OUTPUTS) == before
    assert trainings == [3]


def test_a_calibration_that_a_student_does_not_use_costs_nothing(
    trained: Project, trainings: list[int]
) -> None:
    before = trained.tree(*OUTPUTS)
    trained.run("calibrate", calibrate={"ferkd": [{"step": "truth"}]})
    assert why(trained, "train") is None
    delete_outputs()
    run(trained, "train")
    assert trained.tree(*OUTPUTS) == before
    assert trainings == []


def test_kept_results_are_no_others(
    trained: Project, trainings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_outputs()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "of_code", lambda: "edited")
        run(trained, "train")
    assert trainings == [0]
    whole_stages.run(trained.params(**SECTIONS), "train", NoProgress(), force=True)
    assert trainings == [0, 0]
    delete_outputs()
    for path in Path(".ferkd/results/train").rglob("model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    run(trained, "train")
    assert trainings == [0, 0, 0]


def test_gc_deletes_kept_results(trained: Project) -> None:
    found = [item for item in collect.find(trained.layout).items if "training" in item.what]
    assert [item.what for item in found] == ["train: results of a training"]
    collect.delete(trained.layout, collect.Found(found, [], []), lambda item: None)
    assert not list(Path(".ferkd/results/train").iterdir())


def test_labels_of_other_images_are_refused(trained: Project) -> None:
    shutil.rmtree(".ferkd/view")
    path = next(Path("images").rglob("*.png"))
    with Image.open(path) as image:
        Image.new("RGB", image.size).save(path)
    run_again = {"train": {"seed": 7, "steps": 8}}
    with pytest.raises(DataError, match="indexed"):
        run(trained, "train", **run_again)
    trained.run("index")
    with pytest.raises(DataError, match=r"other images than labels/images.*stage infer"):
        run(trained, "train", **run_again)
    trained.run("infer", "compress", "calibrate")
    run(trained, "train", **run_again)


def test_the_code_of_ones_own_network_counts(trained: Project) -> None:
    Path("nets.py").write_text(
        "import timm\n"
        "def tiny(num_classes):\n"
        "    return timm.create_model('resnet18', num_classes=num_classes, layers=[1, 1, 1, 0],\n"
        "        channels=[8, 8, 8, 8], stem_type='deep', stem_width=4, output_stride=8)\n"
    )
    network = {"train": {"model": {"name": "nets:tiny", "model_kwargs": {}}}}
    changes = {"train": {**TRAIN, "model": {**network["train"]["model"], "input_size": 32}}}
    params = trained.params(**changes)
    whole_stages.run(params, "train", NoProgress())
    assert whole_stages.why_incomplete(params, "train") is None
    with Path("nets.py").open("a") as file:
        file.write("# edited\n")
    assert whole_stages.why_incomplete(params, "train") == CHANGED

"""What stage train learns from: the store, the ground truth, or a teacher in every step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.model_config import ModelConfig
from stages.shared.models import card_of, load_card, save_model
from stages.train import run as stage
from stages.train.config import Config
from store.batch import LabelBatch
from store.codecs import LabelSpec
from store.errors import DataError, ParamsError
from store.view.reader import ViewMeta
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
    "steps": 4,
    "lr": 0.02,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    write_images(path / "train")
    write_images(path / "val", num_per_class=3, seed=1)
    config = ModelConfig(**NETWORK)
    model = models.build(config, 3, seed=9)
    save_model(path / "teacher", model.module, card_of(config, model.spec, CLASS_NAMES))
    return path


@pytest.fixture(scope="module")
def view(data: Path) -> FakeView:
    return FakeView(data / "train", image_table(data / "train"))


def run(
    data: Path, out: Path, view: FakeView | None, *, evaluation: bool = True, **fields: Any
) -> stage.Outputs:
    given = Config(**{**TRAINING, **fields})
    inputs = stage.Inputs(
        class_names=CLASS_NAMES,
        view=view,
        images=None if view is not None else image_table(data / "train"),
        images_folder=data / "train",
        evaluation=data / "val" if evaluation else None,
    )
    output = stage.Outputs(out / "model", out / "metrics")
    stage.run(given, inputs, output, NoProgress())
    return output


def digest(output: stage.Outputs) -> str:
    return load_card(output.model).digest


def test_each_kind_of_labels_makes_another_student(
    view: FakeView, data: Path, tmp_path: Path
) -> None:
    teacher = {**NETWORK, "weights": str(data / "teacher")}
    runs: dict[str, tuple[FakeView | None, dict[str, Any]]] = {
        "store": (view, {}),
        "truth": (view, {"labels": "truth"}),
        "online": (view, {"labels": "online", "online_teacher": teacher}),
        "softer": (view, {"labels": "online", "online_teacher": teacher, "temperature": 4}),
        "fresh truth": (None, {"labels": "truth", "crops": {"flip": 0.0}}),
        "fresh online": (
            None,
            {"labels": "online", "online_teacher": teacher, "crops": {}, "mix": "mixup"},
        ),
    }
    outputs = {
        name: run(data, tmp_path / name, seen, **fields) for name, (seen, fields) in runs.items()
    }
    assert len({digest(each) for each in outputs.values()}) == len(runs)
    extra = load_card(outputs["fresh online"].model).extra
    assert (extra["labels"], extra["view"], extra["calibration"]) == ("online", None, None)
    assert load_card(outputs["store"].model).extra["view"] == "0" * 32
    for each in outputs.values():
        assert json.loads((each.metrics / "summary.json").read_bytes())["steps"] == 4


def test_a_network_of_ones_own_trains_like_any_other(
    view: FakeView, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small_nets.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes, width=8):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(width, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    network = {"name": "small_nets:tiny", "model_kwargs": {"width": 4}, "input_size": [16, 16]}
    output = run(data, tmp_path, view, model=network)
    again = models.load_model(output.model)
    assert again.module(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": "online"}, "online_teacher is missing, needed with labels online"),
        ({"crops": {}}, "crops are given, allowed with labels truth and online only"),
        ({"labels": "truth", "temperature": 2}, "allowed with labels truth: 1"),
        (
            {"labels": "truth", "loss": "projection"},
            "loss is projection, allowed with labels truth",
        ),
        (
            {"labels": "truth", "calibration": "sure"},
            "calibration is sure, allowed with labels truth: null",
        ),
        ({"calibration": "sure", "temperature": 2}, "allowed with a calibration"),
        ({"online_teacher": NETWORK}, "online_teacher is resnet18 of random weights, needed"),
        (
            {"online_teacher": {**NETWORK, "weights": "x", "new_classifier": True}},
            r"online_teacher\.new_classifier is true",
        ),
        ({"warmup_steps": 4}, r"warmup_steps is 4, allowed: less than steps \(4\)"),
        ({"accumulate": 4}, "accumulate is 4, allowed: what divides the images of a step"),
        ({"augment": "randaugment"}, "RandAugment in timm's spelling"),
    ],
)
def test_what_does_not_go_together_is_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(**{**TRAINING, **fields})


class Projections(FakeView):
    """A view of a self-supervised teacher's outputs: no classes, D = 5."""

    @property
    def meta(self) -> ViewMeta:
        label = LabelSpec("logits", 1, 5, "float16", 1.0)
        return ViewMeta("0" * 32, str(self.folder), 24, self.num_crops, 5, label, None)

    @property
    def num_classes(self) -> int:
        return 5

    def gather(self, rows: NDArray[np.int64], crops: NDArray[np.int64]) -> LabelBatch:
        found = super().gather(rows, crops)
        dense = np.sin(crops[..., None] + np.arange(5) + rows[:, None, None]).astype(np.float32)
        none = np.zeros((*crops.shape, 0))
        return LabelBatch(
            found.boxes,
            found.flips,
            none.astype(np.int64),
            none.astype(np.float32),
            np.zeros(crops.shape, np.float32),
            found.targets,
            dense,
        )


def test_a_student_of_projections(data: Path, tmp_path: Path) -> None:
    view = Projections(data / "train", image_table(data / "train"))
    output = run(data, tmp_path / "a", view, evaluation=False, loss="projection", steps=30)
    assert load_card(output.model).classes == tuple(f"output_{place}" for place in range(5))
    curve = (output.metrics / "curve.csv").read_text().splitlines()[1:]
    assert float(curve[-1].split(",")[2]) < float(curve[0].split(",")[2])
    with pytest.raises(ParamsError, match="no classes to be measured by"):
        run(data, tmp_path / "b", view, loss="projection")
    with pytest.raises(ParamsError, match=r"compress\.kind is logits"):
        run(data, tmp_path / "b", view, evaluation=False)
    assert not (tmp_path / "b").exists()


def test_projections_are_no_classes(data: Path, tmp_path: Path) -> None:
    view = Projections(data / "train", image_table(data / "train"))
    teacher = {**NETWORK, "weights": str(data / "teacher")}
    for fields in ({"labels": "truth"}, {"labels": "online", "online_teacher": teacher}):
        with pytest.raises(ParamsError, match=r"the store's labels are projections.*train\.crops"):
            run(data, tmp_path, view, evaluation=False, **fields)


def test_a_teacher_for_compare_does_not_label_here(
    view: FakeView, data: Path, tmp_path: Path
) -> None:
    teacher = {**NETWORK, "weights": str(data / "teacher")}
    plain = run(data, tmp_path / "a", view)
    assert digest(run(data, tmp_path / "b", view, online_teacher=teacher)) == digest(plain)


def test_fresh_crops_of_changed_images_are_refused(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    write_images(folder)
    table = image_table(folder)
    path = folder / table.paths[1]
    with Image.open(path) as image:
        Image.new("RGB", image.size).save(path)
    given = Config(**{**TRAINING, "labels": "truth", "crops": {}})
    inputs = stage.Inputs(class_names=CLASS_NAMES, images=table, images_folder=folder)
    with pytest.raises(DataError, match="stage index"):
        stage.run(given, inputs, stage.Outputs(tmp_path / "m", tmp_path / "x"), NoProgress())


def test_projections_need_labels_of_that_kind(view: FakeView, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"loss is projection, but compress\.kind is marginal"):
        run(data, tmp_path, view, evaluation=False, loss="projection")


def test_waiting_for_data_is_told(view: FakeView, data: Path, tmp_path: Path) -> None:
    class Slow(FakeView):
        def paths(self, rows: NDArray[np.int64]) -> list[str]:
            import time

            time.sleep(0.05)
            return super().paths(rows)

    slow = Slow(view.folder, view.images)
    given = Config(**{**TRAINING, "steps": 12})
    inputs = stage.Inputs(class_names=CLASS_NAMES, view=slow)
    output = stage.Outputs(tmp_path / "model", tmp_path / "metrics")
    report = stage.run(given, inputs, output, NoProgress())
    assert "% of the time: raise num_workers" in report.lines[1]

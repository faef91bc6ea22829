"""Linear evaluation: a new classifier on a student's frozen features."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ferkd_pipeline import dvc_file, params, stage_table
from stages.linear.config import Config
from stages.linear.core import on_features
from stages.linear.run import Inputs, Outputs, run
from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.model_config import ModelConfig
from stages.shared.training.config import LearnerConfig
from store.errors import DataError
from tests.stages.training_world import CLASS_NAMES, NETWORK, image_table, write_images

NETWORK_CONFIG = ModelConfig(**NETWORK, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SETTINGS: dict[str, Any] = {
    "lr": 0.05,
    "weight_decay": 0.0,
    "steps": 40,
    "batch_size": 24,
    "crops_per_image": 1,
    "scale": (0.5, 1.0),
    "device": "cpu",
    "checkpoint_minutes": None,
}


def write_student(folder: Path, num_outputs: int, seed: int = 1) -> models.Model:
    """A network of random weights, as though it had learned to say ``num_outputs`` things."""
    model = models.build(NETWORK_CONFIG, num_outputs, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, values in model.module.state_dict().items():
        if name.endswith("running_mean"):
            values.copy_(0.1 * torch.randn(values.shape, generator=generator))
    names = [f"output_{place}" for place in range(num_outputs)]
    models.save_model(folder, model.module, models.card_of(NETWORK_CONFIG, model.spec, names))
    return models.load_model(folder)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_images(tmp_path / "images")
    write_images(tmp_path / "val", seed=9)
    write_student(tmp_path / "student", 7)
    return tmp_path


def evaluate(world: Path, name: str = "linear", **changes: Any) -> models.Model:
    inputs = Inputs(
        world / "student", image_table(world / "images"), world / "images", world / "val"
    )
    outputs = Outputs(world / name / "model", world / name / "metrics")
    run(Config(**SETTINGS | changes), inputs, outputs, NoProgress())
    return models.load_model(outputs.model)


def features(model: models.Model) -> dict[str, torch.Tensor]:
    state = model.module.state_dict()
    return {name: values for name, values in state.items() if not name.startswith("fc.")}


def test_only_the_classifier_is_trained(world: Path) -> None:
    student = models.load_model(world / "student")
    found = evaluate(world)
    assert found.module.eval()(torch.zeros(2, 3, 16, 16)).shape == (2, len(CLASS_NAMES))
    assert found.spec == student.spec
    before, after = features(student), features(found)
    assert before.keys() == after.keys() and len(before) > 20
    for name, values in before.items():
        assert torch.equal(after[name], values), name  # batch normalisation's statistics too
    summary = json.loads((world / "linear/metrics/summary.json").read_text())
    assert summary["num_trained"] == 16 * 3 + 3
    assert summary["top1"] > 0.8, "colours show even in features of random weights"
    assert (world / "linear/metrics/curve.csv").read_text().startswith("step,")
    card = models.load_card(world / "linear/model")
    assert card.classes == CLASS_NAMES
    assert card.extra["stage"] == "linear"
    assert card.extra["student"] == student.digest
    assert str(world) not in json.dumps(card.to_json())


def test_it_is_the_same_again_and_knows_its_seed(world: Path) -> None:
    first = evaluate(world, "first", steps=3)
    assert evaluate(world, "second", steps=3).digest == first.digest
    assert evaluate(world, "third", steps=3, seed=5).digest != first.digest


@pytest.mark.parametrize("num_outputs", [3, 7])
def test_the_classifier_is_new_whatever_the_student_was_asked(
    tmp_path: Path, num_outputs: int
) -> None:
    """Also of a student that tells as many classes apart: its own classifier must not help."""
    student = write_student(tmp_path, num_outputs)
    model = on_features(student, NETWORK_CONFIG, 3, seed=4)
    fresh = models.build(NETWORK_CONFIG, 3, seed=4).module.state_dict()
    state, taught = model.module.state_dict(), student.module.state_dict()
    for name in state:
        wanted = fresh if name.startswith("fc.") else taught
        assert torch.equal(state[name], wanted[name]), name
    if num_outputs == 3:
        assert not torch.equal(state["fc.weight"], taught["fc.weight"])
    assert model.digest == models.weights_digest(model.module) != student.digest


def test_a_student_of_another_shape_is_refused(tmp_path: Path) -> None:
    student = write_student(tmp_path, 3)
    wider = NETWORK_CONFIG.model_copy(
        update={"model_kwargs": {**NETWORK["model_kwargs"], "channels": [8, 8, 16, 24]}}
    )
    with pytest.raises(DataError, match=r"resnet18 has no layer4\.0.* of shape \(24"):
        on_features(student, wider, 3, seed=0)


def test_there_must_be_a_student(world: Path) -> None:
    (world / "student/model.json").unlink()
    with pytest.raises(DataError, match=r"student/model\.json: missing.*train it first"):
        evaluate(world)


def test_a_damaged_student_is_refused(world: Path) -> None:
    other = models.build(NETWORK_CONFIG, 7, seed=77)
    card = models.card_of(NETWORK_CONFIG, other.spec, [str(i) for i in range(7)])
    models.save_model(world / "other", other.module, card)
    (world / "other/model.safetensors").rename(world / "student/model.safetensors")
    with pytest.raises(DataError, match=r"not those that model\.json beside them was written for"):
        evaluate(world)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"temperature": 2.0}, "temperature is 2.0, allowed: 1"),
        ({"loss": "mse"}, "loss is mse, allowed: cross_entropy, kl"),
        ({"loss": "projection"}, "loss is projection, allowed: cross_entropy, kl"),
        ({"kind": "random_crop"}, "size is missing"),
        ({"steps": None}, "neither is given"),
        ({"model": {"name": "resnet18"}}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_parameters(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Config(**SETTINGS | change)


def test_dvc_knows_what_it_reads() -> None:
    training = {"lr": 1, "steps": 1}
    sections = {
        "train": {**training, "model": {"name": "x"}},
        "linear": {**training, "evaluation": "images/val"},
    }
    values = params.check(Path("params.yaml"), sections)
    made = dvc_file.stages(
        [stage_table.find(name) for name in ("index", "train", "linear")],
        images=dvc_file.image_folders(values.sections),
    )
    assert made["linear"]["deps"] == ["images/val", "labels/images", "models/student"]
    assert made["linear"]["outs"] == [
        "models/linear",
        {"metrics/linear/summary.json": {"cache": False}},
    ]
    [plot] = made["linear"]["plots"]
    assert plot["metrics/linear/curve.csv"]["y"] == "top1"
    assert "metrics/linear/summary.json" in made["report"]["deps"]


def test_every_parameter_of_the_training_reaches_it() -> None:
    config = Config(**SETTINGS, seed=3, evaluation="val", clip_grad=2.0, momentum=0.5)
    learner = config.with_model(NETWORK_CONFIG)
    for name in LearnerConfig.model_fields.keys() - {"model"}:
        assert getattr(learner, name) == getattr(config, name), name
    assert learner.model == NETWORK_CONFIG

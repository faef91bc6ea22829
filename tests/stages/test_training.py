"""Whole small trainings: they learn, they repeat themselves bit for bit, and they fail clearly."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.model_config import ModelConfig
from stages.shared.training.acceleration import make_accelerator
from stages.shared.training.batches import StoredCrops
from stages.shared.training.config import LearnerConfig, TrainingConfig
from stages.shared.training.evaluation import (
    EvaluationSet,
    Evaluator,
    read_class_folder,
)
from stages.shared.training.fit import fit
from stages.shared.training.history import Accuracy, History
from stages.shared.training.learner import Learned, learn, save
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.optimizer import make_optimizer
from stages.shared.training.ranks import Ranks
from stages.shared.training.trainer import Trainer
from store.errors import DataError, ParamsError, ShardError
from tests.stages.training_world import (
    CLASS_NAMES,
    NETWORK,
    FakeView,
    image_table,
    write_images,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    write_images(path)
    return path


@pytest.fixture(scope="module")
def view(folder: Path) -> FakeView:
    return FakeView(folder, image_table(folder))


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    path = tmp_path_factory.mktemp("val")
    write_images(path, num_per_class=4, seed=1)
    return read_class_folder("val", path, CLASS_NAMES)


def config(**fields: Any) -> LearnerConfig:
    defaults: dict[str, Any] = {
        "batch_size": 12,
        "crops_per_image": 2,
        "steps": 20,
        "lr": 0.02,
        "device": "cpu",
    }
    return LearnerConfig(model=ModelConfig(**NETWORK), **{**defaults, **fields})


def train(
    view: FakeView, given: LearnerConfig, val: EvaluationSet | None = None, labels: str = "store"
) -> Learned:
    source = StoredCrops(view, given.seed, "truth" if labels == "truth" else "store")
    return learn(given, source, evaluation=val, progress=NoProgress(), label="test")


def weights(learned: Learned) -> dict[str, torch.Tensor]:
    return learned.model.module.state_dict()


def same(a: Learned, b: Learned) -> bool:
    pairs = zip(weights(a).values(), weights(b).values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_student_learns_and_repeats_itself_bit_for_bit(
    view: FakeView, val: EvaluationSet
) -> None:
    given = config(eval_every=8)
    first, second = train(view, given, val), train(view, given, val)
    assert same(first, second)
    assert first.history.losses == second.history.losses
    assert [step for step, _ in first.history.evaluations] == [8, 16, 20]
    final = first.history.final
    assert final is not None
    assert final.top1 > 0.8
    assert final.top5 == 1.0
    assert final.class_images == (4, 4, 4)
    assert sum(final.class_correct) == round(final.top1 * 12)
    assert first.history.losses[-1] < first.history.losses[0]


def test_another_seed_is_another_student(view: FakeView) -> None:
    given = config(steps=3)
    assert not same(train(view, given), train(view, given.model_copy(update={"seed": 1})))


def test_the_seed_makes_the_first_weights(view: FakeView) -> None:
    given = config(steps=1, seed=3, lr=1e-9, weight_decay=0.0, schedule="constant")
    parts = dict(train(view, given).model.module.named_parameters())
    for name, value in models.build(given.model, 3, seed=3).module.named_parameters():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-7)


def test_saved_model_names_no_path_but_what_it_started_from(view: FakeView, tmp_path: Path) -> None:
    cards: list[dict[str, Any]] = []
    for place in ("here", "there"):
        given = config(steps=1, evaluation=str(tmp_path / place / "val"))
        if cards:
            started = ModelConfig(**NETWORK, weights=str(tmp_path / "here"))
            given = given.model_copy(update={"model": started})
        save(tmp_path / place, given, train(view, given), CLASS_NAMES, stage="train")
        text = (tmp_path / place / "model.json").read_text()
        assert str(tmp_path) not in text
        cards.append(json.loads(text))
    first, second = cards
    assert first["extra"]["training"] == second["extra"]["training"]
    assert first["extra"]["training"]["model"]["name"] == "resnet18"
    assert first["extra"]["training"]["lr"] == 0.02
    assert first["extra"]["starting_weights"] is None
    assert second["extra"]["starting_weights"] == first["digest"] != second["digest"]


def test_workers_and_evaluation_do_not_change_the_student(
    view: FakeView, val: EvaluationSet
) -> None:
    drop = ModelConfig(**{**NETWORK, "model_kwargs": {**NETWORK["model_kwargs"], "drop_rate": 0.5}})
    given = config(steps=4).model_copy(update={"model": drop})
    plain = train(view, given)
    assert same(plain, train(view, given.model_copy(update={"num_workers": 2})))
    assert same(plain, train(view, given.model_copy(update={"eval_every": 1}), val))


def test_labels_decide(view: FakeView) -> None:
    given = config(steps=3)
    soft, hard = train(view, given), train(view, given, labels="truth")
    assert not same(soft, hard)
    weighted = train(view, given.model_copy(update={"truth_weight": 1.0}))
    assert weighted.history.losses == pytest.approx(hard.history.losses, rel=1e-3)
    assert soft.history.losses != pytest.approx(hard.history.losses, rel=1e-3)


def test_first_loss_is_that_of_the_formula(view: FakeView) -> None:
    """The first step's loss, computed here from the dense labels of the same crops."""
    given = config(steps=1, temperature=2.0, truth_weight=0.25)
    source = StoredCrops(view, given.seed)
    found = train(view, given).history.losses[0]
    model = models.build(given.model, 3, seed=given.seed)
    trainer = Trainer(model.module, model.spec, source, given)
    batch = trainer._next_batch()
    model.module.train()
    spec = model.spec
    mean, std = (torch.tensor(x)[:, None, None] for x in (spec.mean, spec.std))
    logits = model.module((batch.pixels.float() / 255 - mean) / std)
    labels = batch.labels
    dense = labels.tail[:, None].repeat(1, 3).scatter_add(1, labels.class_ids, labels.weights)
    soft = -(dense * (logits / 2).log_softmax(1)).sum(1).mean() * 4
    hard = nn.functional.cross_entropy(logits, labels.targets)
    assert found == pytest.approx((0.25 * hard + 0.75 * soft).item(), rel=1e-5)


def test_history_follows_the_schedule(view: FakeView) -> None:
    given = config(steps=6, schedule="cosine", warmup_steps=2, warmup_lr=0.001)
    history = train(view, given).history
    wave = [0.02 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    line = [0.001, (0.001 + wave[2]) / 2]
    assert history.lrs == pytest.approx([*line, *wave[2:]])
    assert len(history.losses) == len(history.step_seconds) == 6
    assert history.seconds_per_step() == history.step_seconds[5]


def test_online_teacher_gives_the_labels(view: FakeView) -> None:
    """A teacher of another input size that is sure of class 1, whatever it sees."""
    sure = models.build(ModelConfig(**{**NETWORK, "input_size": (20, 20)}), 3, seed=0)
    head = sure.module.get_submodule("fc")
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 50.0, 0.0])
    seen: set[tuple[int, ...]] = set()
    sure.module.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape)))
    before = {name: value.clone() for name, value in sure.module.state_dict().items()}
    given = config(steps=20)
    student = models.build(given.model, 3, seed=0)
    fit(
        student.module,
        student.spec,
        StoredCrops(view, 0, "truth"),
        given,
        teacher=OnlineTeacher(sure),
        progress=NoProgress(),
    )
    found = Evaluator(
        EvaluationSet("train", tuple(view.paths(torch.arange(24).numpy())), (1,) * 24, 3),
        student.spec,
    )(student.module, torch.device("cpu"))
    assert found.top1 == 1.0
    assert seen == {(12, 3, 20, 20)}
    for name, value in sure.module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_diverging_stops_at_the_step(view: FakeView) -> None:
    given = config(steps=30, optimizer="sgd", lr=1e30, schedule="constant")
    with pytest.raises(ShardError, match=r"the loss of step [1-9]\d* is (nan|inf)"):
        train(view, given)


def test_clipping_limits_the_step(view: FakeView) -> None:
    given = config(
        steps=1, optimizer="momentum", momentum=0.0, weight_decay=0.0, lr=1.0, schedule="constant"
    )
    start = dict(models.build(given.model, 3, seed=0).module.named_parameters())

    def moved(found: Learned) -> float:
        parts = found.model.module.named_parameters()
        return math.sqrt(sum((value - start[name]).square().sum().item() for name, value in parts))

    assert moved(train(view, given)) > 0.1
    clipped = train(view, given.model_copy(update={"clip_grad": 0.01}))
    assert moved(clipped) == pytest.approx(0.01, rel=1e-2)


def test_optimizers_are_timms(view: FakeView) -> None:
    module = models.build(ModelConfig(**NETWORK), 3, seed=0).module
    optimizer = make_optimizer(module, config(weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6))
    assert isinstance(optimizer, torch.optim.AdamW)
    decays = {len(group["params"]): group["weight_decay"] for group in optimizer.param_groups}
    assert sorted(decays.values()) == [0.0, 0.1]
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert {group["eps"] for group in optimizer.param_groups} == {1e-6}
    sgd = make_optimizer(module, config(optimizer="sgd", momentum=0.7))
    assert {group["momentum"] for group in sgd.param_groups} == {0.7}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "adamwx"}, "optimizer is 'adamwx', which timm does not have"),
        ({"optimizer": "adamw", "betas": (2.0, 0.9)}, "does not take these settings"),
    ],
)
def test_impossible_optimizers_are_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        make_optimizer(nn.Linear(2, 2), config(**fields))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("fields", [{"device": "cuda"}, {"device": "auto", "precision": "fp16"}])
def test_what_only_a_gpu_can_do_is_told(fields: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match="GPU"):
        make_accelerator(config(**fields), Ranks())


def write_one(path: Path) -> None:
    write_images(path, num_per_class=1)


def test_class_folders_are_matched_by_name(tmp_path: Path) -> None:
    write_one(tmp_path)
    found = read_class_folder("val", tmp_path, ("red", "blue", "green", "yellow"))
    assert [Path(path).parent.name for path in found.paths] == ["blue", "green", "red"]
    assert found.class_ids == (1, 2, 0)
    assert found.num_classes == 4


def test_an_unknown_class_folder_is_named(tmp_path: Path) -> None:
    write_one(tmp_path)
    with pytest.raises(DataError, match="green: training knows no class of this name") as caught:
        read_class_folder("val", tmp_path, ("red", "blue"))
    assert str(tmp_path / "green") in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_class_folder("val", tmp_path / "nowhere", CLASS_NAMES)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_one(tmp_path)
    bad = tmp_path / "red" / "0.jpg"
    bad.write_bytes(b"not an image")
    images = read_class_folder("val", tmp_path, CLASS_NAMES)
    model = models.build(ModelConfig(**NETWORK), 3, seed=0)
    with pytest.raises(DataError, match=r"0\.jpg"):
        Evaluator(images, model.spec)(model.module, torch.device("cpu"))


class Brightness(nn.Module):
    """Says the class by the brightest channel: red 2, green 1, blue 0; classes 3 to 6 never."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        assert not self.training
        channels = pixels.mean((2, 3)).flip(1)
        return torch.cat(
            [channels, torch.tensor([-1e2, -2e2, -3e2, -4e2]).expand(len(pixels), 4)], dim=1
        )


@pytest.mark.parametrize("kept", [True, False])
def test_accuracy_counts(val: EvaluationSet, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kept:
        monkeypatch.setattr("stages.shared.training.evaluation.KEPT_BYTES", 0)
    spec = models.build(ModelConfig(**NETWORK), 3, seed=0).spec
    wrong = EvaluationSet("val", val.paths, (*val.class_ids[:-2], 4, 6), 7)
    evaluator = Evaluator(wrong, spec, batch_size=5)
    module = Brightness().train()
    for _ in range(2):  # the second time from memory
        found = evaluator(module, torch.device("cpu"))
        assert found == Accuracy(12, 10 / 12, 11 / 12, (4, 4, 2, 0, 1, 0, 1), (4, 4, 2, 0, 0, 0, 0))
        assert module.training


def test_outputs_that_are_not_finite_stop_it(val: EvaluationSet) -> None:
    class Broken(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.full((len(pixels), 3), math.nan)

    spec = models.build(ModelConfig(**NETWORK), 3, seed=0).spec
    with pytest.raises(ShardError, match="not finite"):
        Evaluator(val, spec)(Broken(), torch.device("cpu"))


def accuracy(top1: float) -> Accuracy:
    return Accuracy(10, top1, 1.0)


def test_curve_has_a_row_an_evaluation() -> None:
    history = History([4.0, 2.0, 1.0, 1.0], [0.1] * 4, [(2, accuracy(0.5)), (4, accuracy(0.75))])
    assert history.curve_csv().splitlines() == [
        "step,lr,loss,top1,top5",
        "2,0.1,3.000000,0.500000,1.000000",
        "4,0.1,1.000000,0.750000,1.000000",
    ]


def test_curve_without_evaluations_is_thinned() -> None:
    history = History([1.0] * 950, [0.1] * 950)
    rows = history.curve_csv().splitlines()
    assert len(rows) == 101
    assert rows[-1] == "950,0.1,1.000000,,"


def test_training_config_does_not_need_a_network() -> None:
    assert TrainingConfig(lr=1, steps=1).num_steps(10) == 1

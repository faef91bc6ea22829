"""A training that is stopped and taken up ends as one that never stopped; parts make one step."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.model_config import ModelConfig
from stages.shared.training.batches import StoredCrops
from stages.shared.training.checkpoint import Checkpoints
from stages.shared.training.config import LearnerConfig
from stages.shared.training.evaluation import EvaluationSet, read_class_folder
from stages.shared.training.fit import Places
from stages.shared.training.learner import Learned, learn
from stages.shared.training.seeds import step_seed
from stages.shared.training.trainer import Trainer
from store.errors import DataError, ParamsError
from tests.stages.training_world import (
    CLASS_NAMES,
    NETWORK,
    FakeView,
    image_table,
    write_images,
)

KWARGS = {**NETWORK["model_kwargs"], "drop_rate": 0.3, "drop_path_rate": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "momentum", "schedule": "serrated", "warmup_steps": 2},
    "adamw": {"ema_decay": 0.9, "mix": "mixup_cutmix", "erase_probability": 0.5},
    "lamb": {"optimizer": "lamb", "mix": "selfmix", "accumulate": 2, "clip_grad": 1.0},
    "adan": {"optimizer": "adan", "schedule": "one_cycle"},
    "augment": {"augment": "rand-m9-mstd0.5", "crops_per_image": 3, "truth_weight": 0.3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    write_images(path, num_per_class=4)
    return path


@pytest.fixture(scope="module")
def view(folder: Path) -> FakeView:
    return FakeView(folder, image_table(folder))


def config(**fields: Any) -> LearnerConfig:
    network = ModelConfig(**{**NETWORK, "model_kwargs": KWARGS})
    defaults: dict[str, Any] = {
        "batch_size": 12,
        "crops_per_image": 2,
        "steps": 9,
        "lr": 0.02,
        "device": "cpu",
    }
    return LearnerConfig(model=network, **{**defaults, **fields})


def trainer(view: FakeView, given: LearnerConfig, **more: Any) -> Trainer:
    model = models.build(given.model, 3, seed=given.seed)
    return Trainer(model.module, model.spec, StoredCrops(view, given.seed), given, **more)


def weights(one: Trainer) -> dict[str, torch.Tensor]:
    return dict(one.measured.state_dict())


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", SETTINGS)
def test_taken_up_anywhere_it_ends_the_same(view: FakeView, tmp_path: Path, name: str) -> None:
    given = config(**SETTINGS[name])
    whole = trainer(view, given)
    whole.advance(9, NoProgress())
    for cut in (1, 4, 8):
        places = Checkpoints(tmp_path / str(cut), "key")
        first = trainer(view, given)
        first.advance(cut, NoProgress())
        places.save(first.state())
        torch.rand(3)  # what another process did to torch's generator does not matter
        second = trainer(view, given)
        state = places.load()
        assert state is not None
        second.load(state)
        assert second.steps_done == cut
        second.advance(9 - cut, NoProgress())
        assert_same(weights(second), weights(whole))
        assert second.history.losses == whole.history.losses
        assert second.history.lrs == whole.history.lrs


class StoppedError(Exception):
    pass


class StopsAt(NoProgress):
    """Ends the training after so many steps, as a kill would."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.notes: list[str] = []

    def advance(self, amount: int = 1) -> None:
        if amount == 1:
            self.left -= 1
            if self.left < 0:
                raise StoppedError

    def note(self, message: str) -> None:
        self.notes.append(message)


def fitted(
    view: FakeView, val: EvaluationSet, places: Places, stop: int | None, **fields: Any
) -> Learned:
    given = config(eval_every=3, checkpoint_minutes=0, ema_decay=0.8, **fields)
    progress = NoProgress() if stop is None else StopsAt(stop)
    return learn(
        given,
        StoredCrops(view, given.seed),
        evaluation=val,
        progress=progress,
        label="student",
        places=places,
    )


@pytest.mark.parametrize("stops", [(1,), (3,), (5, 1, 2), (8,)])
def test_evaluations_come_once_each(
    view: FakeView, folder: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    val = read_class_folder("val", folder, CLASS_NAMES)
    whole = fitted(view, val, Places(), None)
    places = Places(Checkpoints(tmp_path / "kept", "key"))
    for stop in stops:
        with pytest.raises(StoppedError):
            fitted(view, val, places, stop)
    found = fitted(view, val, places, None)
    assert [step for step, _ in found.history.evaluations] == [3, 6, 9]
    assert found.history.evaluations == whole.history.evaluations
    assert found.history.losses == whole.history.losses
    assert_same(found.model.module.state_dict(), whole.model.module.state_dict())
    # A finished one is not trained again.
    assert fitted(view, val, places, 0).history.losses == whole.history.losses


def test_a_bad_image_costs_no_step(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "images"
    write_images(own, num_per_class=4)
    view = FakeView(own, image_table(own))
    val = read_class_folder("val", folder, CLASS_NAMES)
    places = Places(Checkpoints(tmp_path / "kept", "key"))
    whole = fitted(view, val, Places(), None)
    late = config(checkpoint_minutes=60)
    paths = {own / name: (own / name).read_bytes() for name in view.images.paths}
    bad = next(path for path in paths if path.suffix == ".jpg")
    bad.write_bytes(b"")
    with pytest.raises(DataError, match="jpg"):
        learn(
            late.model_copy(update={"eval_every": 3, "ema_decay": 0.8}),
            StoredCrops(view, 0),
            evaluation=val,
            progress=NoProgress(),
            label="student",
            places=places,
        )
    state = Checkpoints(tmp_path / "kept", "key").load()
    assert state is not None, "saved when it failed: an hour has not gone by"
    bad.write_bytes(paths[bad])
    found = fitted(view, val, places, None)
    assert found.history.losses == whole.history.losses
    assert_same(found.model.module.state_dict(), whole.model.module.state_dict())


def test_a_checkpoint_of_another_training_is_refused(view: FakeView, tmp_path: Path) -> None:
    given = config(checkpoint_minutes=0)
    folder = tmp_path / "kept"
    one = trainer(view, given)
    one.advance(1, NoProgress())
    Checkpoints(folder, "a" * 64).save(one.state())
    with pytest.raises(DataError, match="another"):
        learn(
            given,
            StoredCrops(view, 0),
            evaluation=None,
            progress=NoProgress(),
            label="student",
            places=Places(Checkpoints(folder, "b" * 64)),
        )


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_make_the_same_step(view: FakeView, parts: int) -> None:
    plain = {**NETWORK["model_kwargs"], "norm_layer": "groupnorm1"}
    network = ModelConfig(**{**NETWORK, "model_kwargs": plain})

    def after(accumulate: int) -> Trainer:
        given = config(
            accumulate=accumulate, mix="mixup", truth_weight=0.3, optimizer="sgd"
        ).model_copy(update={"model": network})
        one = trainer(view, given)
        one.advance(3, NoProgress())
        return one

    whole, found = after(1), after(parts)
    assert found.history.losses == pytest.approx(whole.history.losses, rel=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(found)[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_what_cannot_be_shared_alike_is_told(view: FakeView) -> None:
    from stages.shared.training.ranks import Ranks

    with pytest.raises(ParamsError, match=r"6 images of 2 crops: 4 processes of 1 parts"):
        trainer(view, config(), ranks=Ranks(0, 4))


def test_the_average_is_the_formulas(view: FakeView) -> None:
    given = config(ema_decay=0.7)
    one = trainer(view, given)
    expected = {name: value.clone() for name, value in one.module.named_parameters()}
    for _ in range(3):
        one.advance(1, NoProgress())
        for name, value in one.module.named_parameters():
            expected[name] = 0.7 * expected[name] + 0.3 * value.detach()
    for name, value in one.measured.named_parameters():
        torch.testing.assert_close(value, expected[name])
    assert one.measured is not one.module
    one.finish()
    for name, value in one.module.named_parameters():
        torch.testing.assert_close(value, expected[name])


def test_only_the_classifier_learns(view: FakeView) -> None:
    one = trainer(view, config(), classifier_only=True)
    before = {name: value.clone() for name, value in one.module.state_dict().items()}
    one.advance(2, NoProgress())
    changed = {
        name for name, value in one.module.state_dict().items() if not value.equal(before[name])
    }
    assert changed == {"fc.weight", "fc.bias"}


def test_serrated_takes_one_crop_an_image_while_warming_up(view: FakeView) -> None:
    given = config(steps=None, epochs=5, schedule="serrated", warmup_epochs=1)
    seen: list[int] = []

    class Watched(StoredCrops):
        def select(self, rows: Any, turn: Any) -> Any:
            seen.append(turn.m)
            return super().select(rows, turn)

    model = models.build(given.model, 3, seed=0)
    one = Trainer(model.module, model.spec, Watched(view, 0), given)
    one.advance(one.num_steps, NoProgress())
    # 12 images: a step of 12 crops for the warm-up, then two passes of 24 crops.
    assert one.num_steps == 5
    assert seen == [1, 2, 2, 2, 2]


def test_steps_of_one_crop_an_image_mix_none_with_itself(view: FakeView) -> None:
    warming: dict[str, Any] = {"steps": 6, "schedule": "serrated", "warmup_steps": 5}
    plain, mixed = (trainer(view, config(**warming, mix=mix)) for mix in ("none", "selfmix"))
    for one in (plain, mixed):
        one.advance(4, NoProgress())
    assert mixed.history.losses == plain.history.losses


def test_seeds_of_steps_differ() -> None:
    seeds = {step_seed(s, t, r) for s in (0, 1) for t in range(50) for r in range(3)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)

"""Learning rates: the published formulas at the points that matter, and what always holds."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.shared.training import schedule
from stages.shared.training.config import TrainingConfig
from stages.shared.training.passes import Passes


def config(**fields: Any) -> TrainingConfig:
    if "epochs" not in fields:
        fields.setdefault("steps", 100)
    return TrainingConfig(**{"lr": 0.1, **fields})


def test_constant() -> None:
    assert {schedule.constant(0.3)(step) for step in (0, 5, 1000)} == {0.3}


def test_cosine_is_torchs() -> None:
    rate = schedule.cosine(0.1, 40, final_lr=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=0.01)
    for step in range(40):
        assert rate(step) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("num_steps", [10, 37, 400])
def test_one_cycle_is_torchs(num_steps: int) -> None:
    rate = schedule.one_cycle(0.1, num_steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=num_steps, cycle_momentum=False
    )
    for step in range(num_steps):
        assert rate(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        if step < num_steps - 1:
            optimizer.step()
            theirs.step()


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_one_cycle_of_few_steps_is_finite(num_steps: int) -> None:
    rate = schedule.one_cycle(0.1, num_steps)
    assert all(0 < rate(step) <= 0.1 for step in range(num_steps))


def test_multi_step() -> None:
    rate = schedule.multi_step(1.0, 200, (0.5, 0.9), 0.1)
    assert [rate(step) for step in (0, 99, 100, 179, 180, 199)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_serrated_is_fkds_formula() -> None:
    # 64 images, 16 crops a step at m=4: 4 images a step, 16 steps a pass, 12 epochs = 3 passes
    rate = schedule.serrated(0.1, 12, Passes.equal(64, 16, 4, 48))
    expected = [0.1 * (1 + math.cos(math.pi * epoch / 12)) / 2 for epoch in (0, 4, 8)]
    assert [rate(step) for step in range(48)] == pytest.approx(
        [lr for lr in expected for _ in range(16)]
    )


@given(
    num_images=st.integers(1, 3000),
    images_per_step=st.integers(1, 64),
    m=st.integers(1, 8),
    passes=st.integers(1, 5),
)
def test_serrated_is_piecewise_constant_and_falls(
    num_images: int, images_per_step: int, m: int, passes: int
) -> None:
    equal = Passes.equal(num_images, images_per_step * m, m, 1)
    rate = schedule.serrated(1.0, passes * m, equal)
    num_steps = math.ceil(passes * num_images / images_per_step)
    steps = range(0, num_steps, max(1, num_steps // 200))
    by_pass: dict[int, set[float]] = {}
    for step in steps:
        by_pass.setdefault(step * images_per_step // num_images, set()).add(rate(step))
    assert all(len(rates) == 1 for rates in by_pass.values())
    firsts = [next(iter(by_pass[key])) for key in sorted(by_pass)]
    assert firsts == sorted(firsts, reverse=True)
    assert firsts[0] == 1.0


@given(
    name=st.sampled_from(["cosine", "serrated", "step", "one_cycle", "constant"]),
    steps=st.integers(1, 500),
    warmup=st.integers(0, 20),
    m=st.sampled_from([1, 2, 4]),
)
def test_every_schedule_stays_within_its_limits(name: str, steps: int, warmup: int, m: int) -> None:
    given_config = config(
        steps=steps,
        schedule=name,
        warmup_steps=min(warmup, steps - 1),
        crops_per_image=m,
        batch_size=8,
        decay_at=(0.5,) if name == "step" else (),
    )
    rate = schedule.make_schedule(given_config, num_images=50)
    rates = [rate(step) for step in range(steps)]
    assert all(0 <= lr <= 0.1 * (1 + 1e-12) for lr in rates)
    assert rates == [rate(step) for step in range(steps)]  # pure: asking changes nothing


def test_warmup_is_a_line_to_where_the_wave_is() -> None:
    wave = schedule.cosine(0.1, 100)
    rate = schedule.warmed_up(wave, 10, 0.01)
    assert rate(0) == 0.01
    steps = [rate(step + 1) - rate(step) for step in range(10)]
    assert steps == pytest.approx([(wave(10) - 0.01) / 10] * 10)
    assert [rate(step) for step in range(10, 100)] == [wave(step) for step in range(10, 100)]


def test_epochs_count_crops() -> None:
    by_epochs = config(epochs=8, batch_size=16, crops_per_image=4)
    assert by_epochs.num_steps(100) == 50  # 8 epochs x 100 crops / 16
    assert by_epochs.num_steps(101) == 51
    assert config(epochs=0.001).num_steps(10) == 1
    assert config(epochs=8, batch_size=16, warmup_epochs=0.5).num_warmup_steps(100) == 3.125


def test_make_schedule_serrated_covers_the_epochs() -> None:
    given_config = config(epochs=8, batch_size=16, crops_per_image=4, schedule="serrated")
    rate = schedule.make_schedule(given_config, num_images=64)
    # two passes of 16 steps
    assert [rate(0), rate(15), rate(16), rate(31)] == pytest.approx([0.1, 0.1, 0.05, 0.05])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": None}, "neither is given, allowed: exactly one of steps and epochs"),
        ({"steps": 1, "epochs": 1}, "both are given, allowed: exactly one of steps and epochs"),
        ({"batch_size": 10, "crops_per_image": 4}, "a multiple of crops_per_image"),
        ({"warmup_steps": 1, "warmup_epochs": 1}, "one of warmup_steps and warmup_epochs"),
        ({"final_lr": 0.2}, "at most lr"),
        ({"schedule": "step"}, "decay_at is empty"),
        ({"decay_at": (0.5,)}, "only with schedule step"),
        ({"schedule": "step", "decay_at": (1.5,)}, "shares within 0 and 1"),
        ({"lr": float("nan")}, "finite number"),
        ({"learning_rate": 1}, "Extra inputs are not permitted"),
        ({"precision": "fp8"}, "'float32', 'bf16' or 'fp16'"),
    ],
)
def test_impossible_settings_are_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        config(**{"steps": 100, **fields} if "epochs" not in fields else fields)

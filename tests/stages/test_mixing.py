"""Mixing: who is mixed with whom, by how much, the same for a step whoever makes it."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.model_config import ModelConfig
from stages.shared.pixels import normalise
from stages.shared.training.batches import Labels, StoredCrops
from stages.shared.training.checks import check_loss
from stages.shared.training.config import LearnerConfig, TrainingConfig
from stages.shared.training.inputs import Preparation
from stages.shared.training.labels import LabelTensors
from stages.shared.training.learner import Learned, learn
from stages.shared.training.loader import StepBatches, TrainingBatch
from stages.shared.training.mixing import (
    Box,
    Mix,
    cut_box,
    draw_mix,
    image_partners,
    is_off,
    mix_pixels,
    mixed_label_variance,
    selfmix_partners,
    symmetric_beta,
)
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.ranks import Ranks
from stages.shared.training.trainer import Trainer
from stages.train.config import Config as TrainConfig
from store.codecs import Kind, LabelSpec
from store.errors import ParamsError
from store.view.reader import ViewMeta
from tests.stages.training_world import NETWORK, FakeView, image_table, plan_of, write_images

SIZE = (16, 12)
MIXES = ["selfmix", "mixup", "cutmix", "mixup_cutmix"]
uniforms = st.floats(0, 1, exclude_min=True, exclude_max=True)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> FakeView:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return FakeView(folder, image_table(folder))


def config(**fields: Any) -> LearnerConfig:
    defaults: dict[str, Any] = {
        "batch_size": 12,
        "crops_per_image": 2,
        "steps": 4,
        "lr": 0.02,
        "device": "cpu",
    }
    return LearnerConfig(model=ModelConfig(**NETWORK), **{**defaults, **fields})


def drawn(steps: int = 200, **fields: Any) -> list[Mix]:
    given = config(**fields)
    mixes = [draw_mix(given, step, SIZE) for step in range(steps)]
    return [mix for mix in mixes if mix is not None]


# Partners


@given(num_images=st.integers(1, 9), m=st.integers(2, 9), uniform=uniforms)
def test_selfmix_partner_is_another_crop_of_the_image(
    num_images: int, m: int, uniform: float
) -> None:
    partners = selfmix_partners(num_images, m, uniform)
    own = np.arange(num_images * m)
    assert (partners // m == own // m).all()
    assert (partners != own).all()
    assert sorted(partners) == own.tolist()
    assert len(set((partners - own) % m)) == 1  # one cyclic shift


@given(num_images=st.integers(2, 9), m=st.integers(1, 9), uniform=uniforms)
def test_other_partners_are_of_another_image(num_images: int, m: int, uniform: float) -> None:
    partners = image_partners(num_images, m, uniform)
    own = np.arange(num_images * m)
    assert (partners // m != own // m).all()
    assert sorted(partners) == own.tolist()


def test_every_shift_is_drawn() -> None:
    firsts = {mix.partners[0] for mix in drawn(mix="selfmix", crops_per_image=4)}
    assert firsts == {1, 2, 3}
    firsts = {mix.partners[0] for mix in drawn(mix="cutmix", crops_per_image=4)}
    assert firsts == {4, 8}


# Shares and boxes


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_beta_has_its_moments(alpha: float) -> None:
    places = (np.arange(300) + 0.5) / 300  # a grid instead of chance
    values = np.array([symmetric_beta(alpha, u, v) for u, v in itertools.product(places, places)])
    assert values.mean() == pytest.approx(0.5, abs=1e-9)
    variance = 1 / (4 * (2 * alpha + 1))
    assert values.var() == pytest.approx(variance, rel=0.01)
    fourth = 3 * variance**2 * (2 * alpha + 1) / (2 * alpha + 3)
    assert ((values - 0.5) ** 4).mean() == pytest.approx(fourth, rel=0.02)


def test_beta_of_one_is_uniform() -> None:
    places = (np.arange(300) + 0.5) / 300
    values = np.sort([symmetric_beta(1.0, u, v) for u, v in itertools.product(places, places)])
    ranks = (np.arange(len(values)) + 0.5) / len(values)
    assert np.abs(values - ranks).max() < 0.005


@given(alpha=st.floats(1e-3, 1e3), radius=uniforms, angle=uniforms)
def test_beta_stays_within_0_and_1(alpha: float, radius: float, angle: float) -> None:
    assert 0 <= symmetric_beta(alpha, radius, angle) <= 1


@given(
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    share=st.floats(0, 1),
    y=uniforms,
    x=uniforms,
)
def test_a_box_is_inside_and_no_larger_than_its_share(
    height: int, width: int, share: float, y: float, x: float
) -> None:
    box = cut_box((height, width), share, y, x)
    assert 0 <= box.top <= box.bottom <= height
    assert 0 <= box.left <= box.right <= width
    assert box.area <= (1 - share) * height * width + 1e-6


def test_a_box_in_the_middle_is_not_clipped() -> None:
    assert cut_box((20, 40), 0.75, 0.5, 0.5) == Box(5, 10, 15, 30)
    assert cut_box((20, 40), 0.75, 0.01, 0.99) == Box(0, 29, 5, 40)


@settings(max_examples=60, deadline=None)
@given(mix=st.sampled_from(["selfmix", "cutmix"]), seed=st.integers(0, 2**63 - 1))
def test_share_is_that_of_unmodified_pixels(mix: str, seed: int) -> None:
    drawn_mix = draw_mix(config(mix=mix, seed=seed), 3, SIZE)
    if drawn_mix is None:
        return
    pixels = torch.arange(12.0)[:, None, None, None].expand(12, 3, *SIZE)
    mixed = mix_pixels(pixels, drawn_mix)
    assert (mixed == pixels).double().mean().item() == pytest.approx(drawn_mix.share, abs=1e-12)
    partners = torch.from_numpy(drawn_mix.partners)
    assert ((mixed == pixels) | (mixed == pixels[partners])).all()


def test_mixup_mixes_every_pixel_before_or_after_normalising() -> None:
    rng = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (12, 3, *SIZE), generator=rng, dtype=torch.uint8)
    (mix, *_) = drawn(mix="mixup")
    assert mix.box is None
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    mixed = mix_pixels(normalise(raw, mean, std), mix)
    of_raw = mix.share * raw.double() + (1 - mix.share) * raw[mix.partners].double()
    scale = torch.tensor(std, dtype=torch.float64)[:, None, None]
    offset = torch.tensor(mean, dtype=torch.float64)[:, None, None]
    expected = (of_raw / 255 - offset) / scale
    torch.testing.assert_close(mixed.double(), expected, rtol=0, atol=1e-5)


def test_mixing_leaves_its_input_and_memory_format() -> None:
    pixels = torch.rand(12, 3, *SIZE).contiguous(memory_format=torch.channels_last)
    before = pixels.clone()
    for mix in (drawn(mix="mixup")[0], drawn(mix="cutmix")[0]):
        mixed = mix_pixels(pixels, mix)
        assert torch.equal(pixels, before)
        assert not torch.equal(mixed, before)
        assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert mix_pixels(pixels, None) is pixels


# Draws


def as_tuple(mix: Mix | None) -> object:
    return None if mix is None else (mix.partners.tolist(), mix.share, mix.box)


@pytest.mark.parametrize("mix", MIXES)
def test_a_step_is_drawn_alike_each_time(mix: str) -> None:
    given = config(mix=mix)
    forwards = [as_tuple(draw_mix(given, step, SIZE)) for step in range(30)]
    backwards = [as_tuple(draw_mix(given, step, SIZE)) for step in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert len({str(one) for one in forwards}) > 25
    other = config(mix=mix, seed=1)
    assert forwards != [as_tuple(draw_mix(other, step, SIZE)) for step in range(30)]


def test_draws_are_those_of_this_table() -> None:
    """A change of these numbers changes every student that was trained with mixing."""
    given = config(mix="mixup_cutmix", seed=7)
    rows = [draw_mix(given, step, (224, 224)) for step in range(5)]
    found = [(one.partners[0], one.share, one.box) for one in rows if one is not None]
    expected = [
        (6, 0.07487672186443717, None),
        (6, 0.7015593979137096, None),
        (2, 0.5289046393796073, None),
        (6, 0.7480273466988451, None),
        (8, 0.8807198660714286, Box(161, 30, 224, 125)),
    ]
    assert [(first, box) for first, _, box in found] == [(one[0], one[2]) for one in expected]
    shares = [share for _, share, _ in found]
    assert shares == pytest.approx([one[1] for one in expected], rel=1e-13)


def test_probability_and_switch() -> None:
    assert drawn(mix="mixup", mix_probability=0.0) == []
    assert len(drawn(mix="mixup", mix_probability=1.0)) == 200
    assert 60 < len(drawn(mix="mixup", mix_probability=0.4)) < 100
    for switch, low, high in ((0.0, 0, 0), (0.5, 80, 120), (1.0, 190, 200)):
        boxes = [mix.box is not None for mix in drawn(mix="mixup_cutmix", mix_switch=switch)]
        assert low <= sum(boxes) <= high


def test_a_setting_moves_no_other_draw() -> None:
    both = {str(as_tuple(mix)) for mix in drawn(mix="mixup_cutmix")}
    alone = {str(as_tuple(mix)) for mix in [*drawn(mix="mixup"), *drawn(mix="cutmix")]}
    assert both <= alone
    some = {str(as_tuple(mix)) for mix in drawn(mix="mixup", mix_probability=0.3)}
    assert some < {str(as_tuple(mix)) for mix in drawn(mix="mixup")}


# Labels


@pytest.mark.parametrize("mix", MIXES)
def test_mixed_labels_sum_to_one_and_stay_sparse(view: FakeView, mix: str) -> None:
    labels = StepBatches(
        StoredCrops(view, 0), plan_of(24, 6, 0, m=2), models.build(config().model, 3, seed=0).spec
    ).make(0)
    for one in drawn(20, mix=mix):
        mixed = labels.labels.mixed(torch.from_numpy(one.partners), one.share)
        full = mixed.expand(3)
        torch.testing.assert_close(full.sum(1), torch.ones(12, dtype=torch.float64))
        assert (full >= 0).all()
        assert mixed.class_ids.shape == (12, 4)


def test_variance_of_mixed_labels() -> None:
    one_hot = LabelTensors.from_targets(torch.tensor([0, 1, 2, 2]))
    partners = torch.tensor([1, 0, 3, 2])
    mixed = one_hot.mixed(partners, 0.75)
    # two crops move by (1/4, -1/4), two not at all
    assert mixed_label_variance(one_hot, mixed, 5) == (2 * 0.25**2) / 2
    assert mixed_label_variance(one_hot, one_hot, 5) == 0
    assert mixed_label_variance(one_hot, one_hot.mixed(partners, 0.0), 5) == 1.0
    dense = replace(one_hot, dense=one_hot.expand(5).float())
    assert mixed_label_variance(dense, dense.mixed(partners, 0.75), 5) == (2 * 0.25**2) / 2


def test_mixed_labels_keep_their_parts_when_moved() -> None:
    labels = LabelTensors.from_targets(torch.tensor([0, 1])).mixed(torch.tensor([1, 0]), 0.25)
    moved = labels.to(torch.device("cpu"))
    assert moved.share == 0.25
    assert moved.partner_targets is not None
    assert moved.partner_targets.tolist() == [1, 0]
    assert labels.targets.tolist() == [0, 1]


# Training


def train(view: FakeView, given: LearnerConfig, labels: Labels = "store", **others: Any) -> Learned:
    source = StoredCrops(view, given.seed, labels)
    others = {"progress": NoProgress(), **others}
    return learn(given, source, evaluation=None, label="test", **others)


def same(a: Learned, b: Learned) -> bool:
    pairs = zip(
        a.model.module.state_dict().values(), b.model.module.state_dict().values(), strict=True
    )
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("mix", MIXES)
def test_training_with_mixing_repeats_itself(view: FakeView, mix: str) -> None:
    plain = train(view, config())
    mixed = train(view, config(mix=mix, truth_weight=0.3))
    again = train(view, config(mix=mix, truth_weight=0.3))
    assert same(mixed, again)
    assert not same(mixed, plain)


def test_workers_do_not_change_what_is_mixed(view: FakeView) -> None:
    given = config(mix="mixup_cutmix")
    assert same(train(view, given), train(view, given.model_copy(update={"num_workers": 1})))


def test_settings_of_mixing_change_nothing_without_mixing(view: FakeView) -> None:
    settings_ = {"mixup_alpha": 3.0, "cutmix_alpha": 0.1, "mix_switch": 0.0, "mix_probability": 0.5}
    plain = train(view, config())
    assert same(plain, train(view, config(**settings_)))
    assert same(plain, train(view, config(mix="mixup", mix_probability=0.0)))


class Notes(NoProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_selfmix_with_one_crop_is_off_and_said_once(view: FakeView) -> None:
    notes = Notes()
    given = config(mix="selfmix", crops_per_image=1)
    assert is_off(given)
    assert not is_off(config(mix="selfmix"))
    mixed = train(view, given, progress=notes)
    assert same(mixed, train(view, config(crops_per_image=1)))
    assert notes.notes == ["test: mix is selfmix, but crops_per_image is 1: nothing is mixed"]


def teacher(size: tuple[int, int] = (16, 16), *, seed: int = 5) -> OnlineTeacher:
    network = ModelConfig(**{**NETWORK, "input_size": size})
    return OnlineTeacher(models.build(network, 3, seed=seed))


@pytest.mark.parametrize("loss", ["cross_entropy", "kl", "mse"])
def test_an_online_teacher_goes_through_learn(view: FakeView, loss: str) -> None:
    given = config(mix="mixup_cutmix", loss=loss)
    first, second = (train(view, given, teacher=teacher()) for _ in range(2))
    assert same(first, second)
    assert not same(first, train(view, given, teacher=teacher(seed=6)))
    assert not same(first, train(view, config(loss=loss), teacher=teacher()))


@pytest.mark.parametrize("mix", MIXES)
def test_an_online_teacher_is_shown_what_the_student_is(view: FakeView, mix: str) -> None:
    given, online = config(mix=mix), teacher()
    student = models.build(given.model, 3, seed=0)
    shown: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    for name, module in (("student", student.module), ("teacher", online.model.module)):
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: shown[name].append(inputs[0].clone())
        )
    source = StoredCrops(view, 0)
    trainer = Trainer(student.module, student.spec, source, given, teacher=online)
    trainer.advance(3, NoProgress())
    assert len(shown["student"]) == len(shown["teacher"]) == 3
    for own, its in zip(*shown.values(), strict=True):
        assert torch.equal(own, its)


def test_ground_truth_is_mixed_beside_an_online_teacher_too(view: FakeView) -> None:
    given = config(mix="mixup", truth_weight=1.0)
    assert same(train(view, given, teacher=teacher()), train(view, given))


def test_projections_are_mixed_as_probabilities() -> None:
    raw = torch.zeros(12, 3, 16, 16, dtype=torch.uint8)
    outputs = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    labels = replace(LabelTensors.from_targets(torch.arange(12) % 3), dense=outputs)
    spec = models.build(config().model, 3, seed=0).spec
    given = config(mix="mixup", loss="projection", projection_temperature=0.5)
    mix = drawn(mix="mixup")[0]
    found = Preparation(given, Ranks(), spec)(TrainingBatch(raw, labels), mix, seed=0).labels.dense
    probs = (outputs / 0.5).softmax(1)
    assert found is not None
    torch.testing.assert_close(found, mix.share * probs + (1 - mix.share) * probs[mix.partners])


def test_teacher_and_student_see_one_mixture() -> None:
    rng = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (12, 3, 16, 16), generator=rng, dtype=torch.uint8)
    online = teacher()
    online.prepare(torch.device("cpu"))
    # a fresh residual network of this size looks at the top left corner alone
    corner = next(mix for mix in drawn(mix="cutmix") if mix.box and mix.box[:2] == (0, 0))
    for mix in (drawn(mix="mixup")[0], corner):
        spec = online.model.spec
        seen = mix_pixels(normalise(raw, spec.mean, spec.std), mix)
        student = replace(spec, mean=(0.1, 0.1, 0.1))
        prepare = Preparation(config(mix="mixup"), Ranks(), student, spec)
        batch = TrainingBatch(raw, LabelTensors.from_targets(torch.arange(12) % 3))
        inputs = prepare(batch, mix, seed=0)
        assert inputs.teacher_pixels is not None
        assert torch.equal(inputs.teacher_pixels, seen)
        own = mix_pixels(normalise(raw, student.mean, student.std), mix)
        assert torch.equal(inputs.pixels, own)
        assert torch.equal(online.probabilities(seen, 2.0), online.probabilities(seen, 2.0))


def test_a_teacher_of_another_size_cannot_see_the_boxes(view: FakeView) -> None:
    with pytest.raises(ParamsError, match="mix is cutmix with an online teacher of input size 32"):
        train(view, config(mix="cutmix"), teacher=teacher((32, 32)))
    train(view, config(steps=1), teacher=teacher((32, 32)))


# Settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "mse", "temperature": 2.0}, "temperature is 2.0, allowed with loss mse: 1"),
        ({"mix": "cutmix", "crops_per_image": 12}, "a step has the crops of one image"),
        ({"mixup_alpha": 0.0}, "mixup_alpha"),
        ({"mix_switch": 1.5}, "mix_switch"),
        ({"mix_probability": -0.1}, "mix_probability"),
        ({"mix": "blend"}, "mix"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**fields)


def test_defaults_are_no_mixing_and_cross_entropy() -> None:
    given = TrainingConfig(lr=1, steps=1)
    assert (given.mix, given.loss) == ("none", "cross_entropy")
    assert draw_mix(given, 0, SIZE) is None


def test_ground_truth_has_no_mse(view: FakeView) -> None:
    fields = config().model_dump()
    with pytest.raises(ValidationError, match="allowed with labels truth: cross_entropy, kl"):
        TrainConfig(**{**fields, "loss": "mse", "labels": "truth"})
    with pytest.raises(ParamsError, match="loss is mse"):
        train(view, config(loss="mse"), "truth")


class OtherKind(FakeView):
    @property
    def meta(self) -> ViewMeta:
        kind: Kind = "full" if self.calibration is None else "logits"
        return replace(super().meta, label=LabelSpec(kind, 1, 3), calibration=None)


def test_the_kind_of_labels_settles_which_losses_there_are(view: FakeView) -> None:
    full = OtherKind(view.folder, view.images)
    logits = OtherKind(view.folder, view.images, calibration="none")
    for loss in ("cross_entropy", "kl", "mse"):
        check_loss(config(loss=loss), full)
    check_loss(config(loss="kl"), view)
    with pytest.raises(ParamsError, match=r"compress\.kind is marginal_smoothing; set"):
        check_loss(config(loss="mse"), view)
    for loss in ("cross_entropy", "kl", "mse"):
        with pytest.raises(ParamsError, match=r"compress\.kind is logits"):
            check_loss(config(loss=loss), logits)

"""RandAugment and erasing of the student's pixels: timm's, drawn from (seed, step, crop) alone."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.auto_augment import posterize, rand_augment_transform
from torch import Tensor

from stages.shared.training import augment
from stages.shared.training.augment import augmented, check_spec
from stages.shared.training.crop_use_config import CropUseConfig
from stages.shared.training.erase import erase
from store.errors import ParamsError

SPEC = "rand-m9-n3-mstd0.5-inc1-p0.9"


def crops(count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(20, 250, (count, 3, 24, 30), dtype=torch.uint8, generator=generator)
    return pixels.contiguous(memory_format=torch.channels_last)


def erasing(probability: float, mode: str = "pixel") -> CropUseConfig:
    return CropUseConfig.model_validate({"erase_probability": probability, "erase_mode": mode})


def legacy_state() -> list[int]:
    """Of numpy's one generator for all, which timm uses."""
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return [*state["state"]["key"].tolist(), state["state"]["pos"]]


def keeps_generators(work: Callable[[], Tensor]) -> Tensor:
    """What ``work`` returns, after checking that it drew nothing of the process's generators."""
    random.seed(11)
    np.random.seed(11)  # noqa: NPY002
    torch.manual_seed(11)
    before = (random.getstate(), torch.get_rng_state(), legacy_state())
    found = work()
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert legacy_state() == before[2]
    return found


@given(
    places=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**40),
)
@settings(max_examples=20, deadline=None)
def test_a_crop_is_changed_by_its_own_name_alone(places: list[int], seed: int, step: int) -> None:
    pixels = crops()
    whole = augmented(pixels, np.arange(6), SPEC, seed, step)
    random.random()  # what others draw in between is nothing to it
    some = augmented(pixels[places], np.array(places), SPEC, seed, step)
    assert torch.equal(some, whole[places])


def test_it_is_timms_and_differs_by_seed_step_and_name() -> None:
    pixels = crops(1).expand(40, -1, -1, -1)
    names = np.arange(40)
    found = keeps_generators(lambda: augmented(pixels, names, SPEC, 1, 2))
    assert torch.equal(pixels, crops(1).expand(40, -1, -1, -1))
    assert (found.dtype, found.shape) == (torch.uint8, pixels.shape)
    assert len({each.numpy().tobytes() for each in found}) > 30
    for seed, step in ((1, 3), (2, 2)):
        other = augmented(pixels, names, SPEC, seed, step)
        assert (other != found).flatten(1).any(dim=1).float().mean() > 0.8


def test_operations_are_those_of_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    def spied(spec: str, settings: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
        calls.append((spec, dict(settings)))
        return rand_augment_transform(spec, settings)  # type: ignore[no-any-return]

    monkeypatch.setattr("stages.shared.training.augment.rand_augment_transform", spied)
    augmented(crops(), np.arange(6), "rand-m3-n1", 0, 0)
    augmented(crops(), np.arange(6), "rand-m3-n1", 0, 1)
    assert calls == [("rand-m3-n1", {"translate_const": 10, "img_mean": (124, 116, 104)})]


@pytest.mark.parametrize("spec", ["rand-m10-inc1-p1-n4", "rand-m30-mmax30-p1-n4", "rand-m0-p1-n4"])
@pytest.mark.parametrize("inc", ["", "-inc1"])
def test_no_magnitude_is_too_much(spec: str, inc: str) -> None:
    """At 10 timm posterizes to no bit at all, which PIL refuses: a training would die of it."""
    pixels = crops(1).expand(60, -1, -1, -1)
    found = augmented(pixels, np.arange(60), spec + inc, 0, 0)
    assert (found != pixels).flatten(1).any(dim=1).float().mean() > 0.3


def test_posterizing_is_timms_and_goes_on_to_black() -> None:
    image = Image.fromarray(crops(1)[0].permute(1, 2, 0).contiguous().numpy())
    for bits in range(1, 10):
        found = np.asarray(augment._posterize(image, bits))
        np.testing.assert_array_equal(found, np.asarray(posterize(image, bits)))  # type: ignore[no-untyped-call]
    for bits in (0, -8):
        assert not np.asarray(augment._posterize(image, bits)).any()


def test_memory_format_stays() -> None:
    found = augmented(crops(), np.arange(6), SPEC, 0, 0)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, augmented(crops().contiguous(), np.arange(6), SPEC, 0, 0))


@pytest.mark.parametrize("spec", ["rand", "rand-m9-mstd0.5-inc1", "rand-p0.5-tweights", "rand-t3a"])
def test_specs_of_timm_are_known(spec: str) -> None:
    check_spec(spec)
    augmented(crops(2), np.arange(2), spec, 0, 0)


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ("rand-x3", "x3"),
        ("rand-m9.5", "m9.5"),
        ("rand-p.5", "p.5"),
        ("rand-inc", "inc"),  # timm passes over it
        ("rand-tweight", "tweight"),
        ("augmix-m5", "augmix"),
        ("rand--m9", ""),
    ],
)
def test_wrong_specs_name_the_parameter(spec: str, wrong: str) -> None:
    with pytest.raises(ParamsError, match=f"train.augment is '{spec}', of which '{wrong}' is"):
        augmented(crops(), np.arange(6), spec, 0, 0)


def test_generators_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(image: Image.Image) -> Image.Image:
        random.random()
        raise RuntimeError("no")

    monkeypatch.setattr("stages.shared.training.augment._transform", lambda *_: fails)

    def work() -> Tensor:
        with pytest.raises(RuntimeError, match="no"):
            augmented(crops(), np.arange(6), SPEC, 0, 0)
        return crops()

    keeps_generators(work)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erased_are_rectangles_of_the_mode(mode: str) -> None:
    pixels = torch.full((20, 3, 32, 32), 9.0).contiguous(memory_format=torch.channels_last)
    found = keeps_generators(lambda: erase(pixels, erasing(1.0, mode), 5))
    assert (pixels == 9).all()
    assert found.is_contiguous(memory_format=torch.channels_last)
    for crop in found:
        is_erased = (crop != 9).any(dim=0)
        rows, columns = torch.nonzero(is_erased, as_tuple=True)
        box = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
        inside = crop[:, box[0] : box[1], box[2] : box[3]]
        assert is_erased.sum() == inside[0].numel()
        assert 0.01 * 32 * 32 < inside[0].numel() < 0.36 * 32 * 32
        distinct = inside.flatten(1).unique(dim=1).shape[1]
        assert (distinct == 1) == (mode != "pixel")
        assert (inside == 0).all() == (mode == "const")


def test_erasing_is_a_function_of_the_seed() -> None:
    pixels = torch.randn((12, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    found = erase(pixels, erasing(0.5), 2**63 - 1)
    torch.rand(3), random.random()
    assert torch.equal(erase(pixels, erasing(0.5), 2**63 - 1), found)
    assert not torch.equal(erase(pixels, erasing(0.5), 4), found)
    share = (erase(pixels.repeat(40, 1, 1, 1), erasing(0.25), 1) != pixels.repeat(40, 1, 1, 1)).any(
        dim=(1, 2, 3)
    )
    assert 0.18 < share.float().mean() < 0.32


def test_probability_zero_is_the_very_tensor() -> None:
    pixels = torch.randn(2, 3, 8, 8)
    assert erase(pixels, erasing(0.0), 1) is pixels

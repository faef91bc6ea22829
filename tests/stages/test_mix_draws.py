"""Drawing what crops are mixed with: who a draw depends on, and how draws are distributed."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stages.sample.config import Config
from stages.sample.mix import Crops, Others, draw_mix
from stages.sample.mix_config import Mix
from store.batch import RecordedMix
from store.mixing import MixKind, what_is_wrong
from store.partners import PartnerRing
from store.random import CropPlan, Purpose, draw_boxes, path_hashes

NUM_IMAGES, SEED = 60, 3
HASHES = path_hashes(f"c/{number}.jpg" for number in range(NUM_IMAGES))
SIZES = np.random.default_rng(0).integers(40, 600, (2, NUM_IMAGES)).astype(np.int32)
OTHERS = Others(PartnerRing(HASHES), *SIZES)


def crops_of(num_crops: int = 12, start: int = 0, stop: int = NUM_IMAGES) -> Crops:
    ids = np.arange(start, stop)
    return Crops(SEED, ids, HASHES[ids], num_crops, CropPlan(), 0.5)


def drawn(crops: Crops | None = None, **fields: Any) -> RecordedMix:
    return draw_mix(Mix.model_validate(fields), crops or crops_of(), OTHERS)


def assert_same(one: RecordedMix, other: RecordedMix) -> None:
    for field in fields(RecordedMix):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(mine, theirs, field.name)


@pytest.mark.parametrize(
    "given", [{}, {"probability": 0.3}, {"mixup": None}, {"cutmix": None, "mixup": 0.1}]
)
def test_what_is_drawn_is_allowed(given: dict[str, Any]) -> None:
    mix = drawn(crops_of(40), **given)
    ids = np.repeat(np.arange(NUM_IMAGES), 40)
    assert what_is_wrong(mix.flat(), ids, NUM_IMAGES) is None
    is_mixed = mix.kinds != MixKind.NONE
    inside = mix.boxes[is_mixed]
    heights, widths = (sides[mix.partner_ids[is_mixed]] for sides in SIZES)
    assert (inside[:, :2] >= 0).all()
    assert (inside[:, 0] + inside[:, 2] <= heights).all()
    assert (inside[:, 1] + inside[:, 3] <= widths).all()
    kinds = {int(kind) for kind in np.unique(mix.kinds)} - {MixKind.NONE}
    wanted = {MixKind.MIXUP: "mixup", MixKind.CUTMIX: "cutmix"}
    assert kinds == {kind for kind, name in wanted.items() if given.get(name, 1) is not None}


def test_more_crops_and_other_images_move_nothing() -> None:
    whole = drawn(crops_of(12))
    assert_same(drawn(crops_of(29)).at((slice(None), slice(12))), whole)
    parts = [drawn(crops_of(12, start, stop)) for start, stop in ((0, 7), (7, 8), (8, NUM_IMAGES))]
    for field in fields(RecordedMix):
        joined = np.concatenate([getattr(part, field.name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, field.name))


def test_chunks_move_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn()
    monkeypatch.setattr("stages.sample.mix._CROPS_A_CHUNK", 25)
    monkeypatch.setattr("store.partners._DRAWS_A_CHUNK", 7)
    assert_same(drawn(), whole)


def test_each_parameter_moves_its_own_draws_alone() -> None:
    plain = drawn()
    assert (plain.kinds != MixKind.NONE).mean() > 0.99
    fewer = drawn(probability=0.5)
    is_mixed = fewer.kinds != MixKind.NONE
    assert 0.4 < is_mixed.mean() < 0.6
    assert_same(fewer.at(is_mixed), plain.at(is_mixed))
    varied = drawn(crops_per_partner=1)
    for name in ("kinds", "shares", "cuts", "flips"):
        np.testing.assert_array_equal(getattr(varied, name), getattr(plain, name))
    assert (varied.partner_ids != plain.partner_ids).mean() > 0.9
    other = drawn(switch=0.0, mixup=3.0)
    np.testing.assert_array_equal(other.partner_ids, plain.partner_ids)
    np.testing.assert_array_equal(other.boxes, plain.boxes)


def test_neighbouring_crops_share_a_partner_with_boxes_of_their_own() -> None:
    mix = drawn(crops_of(10), crops_per_partner=4)
    groups = [mix.partner_ids[:, start : start + 4] for start in (0, 4, 8)]
    assert [group.shape[1] for group in groups] == [4, 4, 2]
    for group in groups:
        assert ((group == group[:, :1]) | (group == -1)).all()
    assert (groups[0][:, 0] != groups[1][:, 0]).mean() > 0.9
    assert (mix.boxes[:, 0] != mix.boxes[:, 1]).any(axis=1).mean() > 0.9


def test_partners_boxes_are_those_of_their_own_purpose() -> None:
    mix = drawn(crops_per_partner=1)
    heights, widths = (sides[mix.partner_ids] for sides in SIZES)
    is_mixed = mix.kinds != MixKind.NONE
    boxes = draw_boxes(SEED, HASHES, heights, widths, 12, CropPlan(), purpose=Purpose.PARTNER_BOX)
    np.testing.assert_array_equal(boxes[is_mixed], mix.boxes[is_mixed])
    own = draw_boxes(SEED, HASHES, heights, widths, 12, CropPlan())
    assert (boxes != own).any(axis=2).mean() > 0.9


def test_shares_are_those_of_their_distributions() -> None:
    crops = crops_of(1000)
    mix = drawn(crops, switch=0.25)
    is_cut = mix.kinds == MixKind.CUTMIX
    assert abs(is_cut.mean() - 0.25) < 0.01
    blended = mix.shares[mix.kinds == MixKind.MIXUP]
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert abs(blended.mean() - 0.5) < 0.01
    assert abs(blended.var() - 1 / (4 * 2.6)) < 0.003
    uniform = drawn(crops, switch=0.0, mixup=1.0).shares
    assert np.abs(np.histogram(uniform, 8, (0, 1))[0] / uniform.size - 1 / 8).max() < 0.006
    # Of CutMix the side is sqrt(1 - uniform), the centre anywhere: so the clipped box's mean side
    # is E[e] - E[e^2] / 4 = 2/3 - 1/8 of the crop's.
    cuts = mix.cuts[is_cut]
    for sides in (cuts[:, 2], cuts[:, 3]):
        assert abs(sides.mean() / 256 - (2 / 3 - 1 / 8)) < 0.015
    assert abs(mix.shares[is_cut].mean() - (1 - (cuts[:, 2] * 1.0 * cuts[:, 3]).mean() / 2**16)) < (
        1e-6
    )
    assert abs(mix.flips[mix.kinds != 0].mean() - 0.5) < 0.01


def test_flips_and_plans_are_the_crops_own() -> None:
    config = Mix.model_validate({})
    padded = replace(crops_of(), plan=CropPlan("random_crop", size=32, padding=4), flip=0.0)
    mix = draw_mix(config, padded, OTHERS)
    is_mixed = mix.kinds != MixKind.NONE
    assert not mix.flips.any()
    assert (mix.boxes[is_mixed][:, 2:] == 32).all()
    assert (mix.boxes < 0).any()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"mixup": None, "cutmix": None}, "nothing is given; give mixup or cutmix"),
        ({"mixup": None, "switch": 0.3}, "switch has no effect without both mixup and cutmix"),
        ({"mixup": 0}, "greater than 0"),
        ({"cutmix": -1}, "greater than 0"),
        ({"probability": 0}, "greater than 0"),
        ({"switch": 1.1}, "less than or equal to 1"),
        ({"crops_per_partner": 0}, "greater than or equal to 1"),
        ({"alpha": 1}, "Extra inputs"),
    ],
)
def test_impossible_parameters(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Config.model_validate({"mix": fields})


def test_nothing_recorded_is_no_parameter() -> None:
    plain = Config.model_validate({})
    assert not {"mix", "augment"} & plain.model_dump(mode="json").keys()
    both = Config.model_validate({"mix": {}, "augment": {"colour_jitter": {"hue": 0.1}}})
    assert {"mix", "augment"} <= both.model_dump(mode="json").keys()
    assert both.model_dump(mode="json")["mix"] == {
        "mixup": 0.8,
        "cutmix": 1.0,
        "probability": 1.0,
        "switch": 0.5,
        "crops_per_partner": 4,
    }

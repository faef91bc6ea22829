"""What sample records of each crop: who a drawn operation depends on, and how they are spread."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.sample.augment import draw_ops, num_ops
from stages.sample.augment_config import Augment
from stages.sample.config import Config
from stages.shared.contract import keyed_params
from store.batch import RecordedOps
from store.operations import Operation, what_is_wrong
from store.random import path_hashes

PATHS = np.array([f"bee/ß{i}.jpg" for i in range(30)], dtype=object)
HASHES = path_hashes(PATHS)
FULL: dict[str, Any] = {
    "rand_augment": {"num_ops": 3, "magnitude": 12, "magnitude_std": 5},
    "colour_jitter": {
        "brightness": 0.4,
        "contrast": [0.5, 1.5],
        "saturation": 0.2,
        "hue": 0.1,
        "probability": 0.7,
    },
}


def augment(**fields: Any) -> Augment:
    return Augment.model_validate(fields)


def drawn(config: Augment, hashes: Any = HASHES, num_crops: int = 6, seed: int = 3) -> RecordedOps:
    return draw_ops(config, seed, hashes, num_crops)


def assert_same(one: RecordedOps, other: RecordedOps) -> None:
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.levels, other.levels)


def taken(ops: RecordedOps, images: Any, crops: Any = slice(None)) -> RecordedOps:
    return RecordedOps(ops.codes[images, crops], ops.levels[images, crops])


@given(
    order=st.lists(st.integers(0, 29), min_size=1, max_size=8),
    num_crops=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=40, deadline=None)
def test_other_images_their_order_and_more_crops_move_nothing(
    order: list[int], num_crops: int, seed: int
) -> None:
    config = augment(**FULL)
    whole = drawn(config, num_crops=num_crops, seed=seed)
    assert whole.codes.shape == (30, num_crops, num_ops(config)) == whole.levels.shape
    assert_same(drawn(config, HASHES[order], num_crops, seed), taken(whole, order))
    more = drawn(config, num_crops=num_crops + 3, seed=seed)
    assert_same(taken(more, slice(None), slice(num_crops)), whole)


def test_seed_and_image_make_other_operations() -> None:
    config = augment(**FULL)
    one, other = drawn(config), drawn(config, seed=4)
    assert (one.levels != other.levels).mean() > 0.5
    assert (one.levels[0] != one.levels[1]).mean() > 0.5
    assert (one.levels[:, 0] != one.levels[:, 1]).mean() > 0.5
    assert (one.codes[..., 0] != one.codes[..., 1]).mean() > 0.8  # 13 of 14 by chance


def test_more_operations_and_jitter_move_no_other() -> None:
    rand, jitter = FULL["rand_augment"], FULL["colour_jitter"]
    both = drawn(augment(**FULL))
    alone = drawn(augment(rand_augment=rand))
    assert_same(RecordedOps(both.codes[..., :3], both.levels[..., :3]), alone)
    assert_same(
        RecordedOps(both.codes[..., 3:], both.levels[..., 3:]),
        drawn(augment(colour_jitter=jitter)),
    )
    fewer = drawn(augment(rand_augment={**rand, "num_ops": 2}))
    assert_same(RecordedOps(alone.codes[..., :2], alone.levels[..., :2]), fewer)


def test_levels_are_allowed_and_on_their_grid() -> None:
    for magnitude in (0, 9, 30):
        config = augment(
            rand_augment={"num_ops": 8, "magnitude": magnitude, "magnitude_std": 30},
            colour_jitter={"brightness": [0, 1000], "hue": 0.5},
        )
        ops = drawn(config, num_crops=40)
        assert what_is_wrong(ops) is None
        assert not ops.levels[ops.codes == Operation.NONE].any()
        assert not np.signbit(ops.levels[ops.levels == 0]).any()
        np.testing.assert_array_equal(ops.levels * 1024, np.rint(ops.levels * 1024))


def test_rand_augment_draws_evenly_out_of_fourteen_with_both_signs() -> None:
    ops = drawn(augment(rand_augment={"num_ops": 2, "magnitude": 30}), num_crops=200)
    counts = np.bincount(ops.codes.ravel(), minlength=len(Operation))
    drawable = np.delete(np.arange(16), [Operation.HUE, Operation.INVERT])
    assert counts[[Operation.HUE, Operation.INVERT]].sum() == 0
    expected = ops.codes.size / 14
    assert (np.abs(counts[drawable] - expected) < 5 * expected**0.5).all()
    strongest = {
        Operation.SHEAR_X: {-0.2998046875, 0.2998046875},
        Operation.TRANSLATE_Y: {-0.453125, 0.453125},
        Operation.ROTATE: {-30.0, 30.0},
        Operation.SHARPNESS: {0.099609375, 1.900390625},
        Operation.POSTERIZE: {4.0},
        Operation.SOLARIZE: {0.0},
        Operation.EQUALIZE: {0.0},
    }
    for op, levels in strongest.items():
        assert set(ops.levels[ops.codes == op].tolist()) == levels
    negative = ops.levels[ops.codes == Operation.ROTATE] < 0
    assert 0.4 < negative.mean() < 0.6


def test_magnitudes_are_normal_and_cut() -> None:
    config = augment(rand_augment={"num_ops": 4, "magnitude": 15, "magnitude_std": 3})
    ops = drawn(config, num_crops=300)
    found = np.abs(ops.levels[ops.codes == Operation.ROTATE])  # a degree a magnitude
    assert len(found) > 2000
    assert abs(found.mean() - 15) < 0.3
    assert abs(found.std() - 3) < 0.2
    wide = drawn(augment(rand_augment={"magnitude": 28, "magnitude_std": 10}), num_crops=100)
    assert np.abs(wide.levels[wide.codes == Operation.ROTATE]).max() == 30


def test_jitter_keeps_its_ranges_orders_and_probability() -> None:
    ops = drawn(augment(colour_jitter=FULL["colour_jitter"]), num_crops=300)
    codes, levels = ops.codes.reshape(-1, 4), ops.levels.reshape(-1, 4)
    is_on = codes.any(axis=1)
    assert 0.66 < is_on.mean() < 0.74
    assert not levels[~is_on].any()
    orders, counts = np.unique(codes[is_on], axis=0, return_counts=True)
    assert len(orders) == 24
    assert counts.min() > 0.6 * counts.mean()
    ranges = {1: (0.6, 1.4), 2: (0.5, 1.5), 3: (0.8, 1.2), 4: (-0.1, 0.1)}
    for code, (low, high) in ranges.items():
        found = np.sort(levels[codes == code])
        assert found[0] >= low - 1e-3
        assert found[-1] <= high + 1e-3
        middle = np.quantile(found, [0.25, 0.5, 0.75])
        np.testing.assert_allclose(
            middle, low + (high - low) * np.array([0.25, 0.5, 0.75]), atol=0.03 * (high - low)
        )


def test_only_what_is_given_has_a_place() -> None:
    config = augment(colour_jitter={"hue": 0.2, "contrast": 0.1})
    assert num_ops(config) == 2
    assert set(drawn(config).codes.ravel().tolist()) == {Operation.HUE, Operation.CONTRAST}


def test_one_setting_has_one_key() -> None:
    written = [{"brightness": 0.4, "hue": 0.1}, {"brightness": [0.6, 1.4], "hue": [-0.1, 0.1]}]
    keys = [
        keyed_params(Config.model_validate({"augment": {"colour_jitter": each}}))
        for each in written
    ]
    assert keys[0] == keys[1]
    assert "augment" in keys[0]
    assert "augment" not in keyed_params(Config())


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "nothing is given"),
        ({"colour_jitter": {}}, "nothing is changed"),
        ({"colour_jitter": {"brightness": [1.2, 0.8]}}, "0 <= smallest <= largest"),
        ({"colour_jitter": {"contrast": -0.1}}, r"contrast is \[1.1, 0.9\]"),
        ({"colour_jitter": {"hue": 0.6}}, r"hue is \[-0.6, 0.6\], allowed: -0.5"),
        ({"colour_jitter": {"hue": 0.1, "probability": 0}}, "greater than 0"),
        ({"colour_jitter": {"gamma": 0.1}}, "Extra inputs"),
        ({"rand_augment": {"magnitude": 31}}, "less than or equal to 30"),
        ({"rand_augment": {"num_ops": 0}}, "greater than or equal to 1"),
        ({"rand_augment": {"magnitude_std": float("nan")}}, "finite"),
    ],
)
def test_impossible_parameters(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Config.model_validate({"augment": fields})

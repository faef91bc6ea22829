"""The embedded data set: the same images whatever the order, honest splits, whole folders."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pydantic
import pytest
from PIL import Image

from stages.digits import core, run
from stages.digits.config import NUM_DIGITS, Config
from stages.shared.contract import NoProgress

SIZES = (1200, 200, 397)
SMALL = Config(
    num_train=60, num_val=50, num_test=50, renders_train=2, renders_val=1, renders_test=1
)


@pytest.fixture(scope="module")
def handwriting() -> core.Handwriting:
    return core.load_handwriting()


def _render(handwriting: core.Handwriting, digit: int, config: Config) -> np.ndarray:
    pool = np.arange(NUM_DIGITS)
    return core.render(handwriting, digit, core.image_number(digit, 0), pool, config)


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_image_is_a_uint8_rgb_canvas(handwriting: core.Handwriting) -> None:
    image = _render(handwriting, 7, Config())
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    assert image.std() > 10


def test_images_do_not_depend_on_the_order_they_are_made_in(
    handwriting: core.Handwriting,
) -> None:
    forwards = {digit: _render(handwriting, digit, Config()) for digit in (3, 4, 5)}
    backwards = {digit: _render(handwriting, digit, Config()) for digit in (5, 4, 3)}
    for digit, image in forwards.items():
        np.testing.assert_array_equal(image, backwards[digit])
    assert not np.array_equal(forwards[3], forwards[4])


def test_every_image_has_a_number_of_its_own() -> None:
    numbers = {
        core.image_number(digit, render) for digit in range(NUM_DIGITS) for render in range(3)
    }
    assert len(numbers) == 3 * NUM_DIGITS


def test_another_seed_gives_another_image(handwriting: core.Handwriting) -> None:
    one, two = (_render(handwriting, 3, Config(seed=seed)) for seed in (0, 1))
    assert not np.array_equal(one, two)


def test_splits_are_exact_disjoint_and_fixed_by_the_seed(handwriting: core.Handwriting) -> None:
    parts = core.split(handwriting.classes, SIZES, seed=0)
    assert tuple(len(parts[name]) for name in core.SPLITS) == SIZES
    assert len(np.unique(np.concatenate(list(parts.values())))) == NUM_DIGITS
    again = core.split(handwriting.classes, SIZES, seed=0)
    other = core.split(handwriting.classes, SIZES, seed=1)
    np.testing.assert_array_equal(parts["val"], again["val"])
    assert not np.array_equal(parts["val"], other["val"])


@pytest.mark.parametrize("sizes", [SIZES, (60, 50, 50)])
def test_every_class_gets_its_share_of_every_split(
    handwriting: core.Handwriting, sizes: tuple[int, int, int]
) -> None:
    shares = np.bincount(handwriting.classes) / NUM_DIGITS
    for pool in core.split(handwriting.classes, sizes, seed=0).values():
        counts = np.bincount(handwriting.classes[pool], minlength=10)
        assert np.abs(counts - shares * len(pool)).max() <= 2


def test_clutter_never_hides_the_digit(handwriting: core.Handwriting) -> None:
    bare, cluttered = Config(num_fragments=0), Config(num_fragments=30)
    for digit in range(20):
        rng = core.generator(0, core.image_number(digit, 0))
        core.background(rng, 48)
        own = core.place_digit(rng, handwriting.glyphs[digit], bare)
        ink = np.zeros((48, 48), dtype=np.float32)
        height, width = own.mask.shape
        ink[own.top : own.top + height, own.left : own.left + width] = own.mask
        one, two = (_render(handwriting, digit, config) for config in (bare, cluttered))
        changed = np.abs(one.astype(np.int64) - two).max(axis=2)
        assert changed.max() > 100
        # What lies below shows through only as far as the ink leaves it bare, plus rounding.
        assert (changed <= np.ceil((1 - ink) * 255) + 1).all()
        assert one[ink > 0.8].mean() > one[ink == 0].max()


@pytest.mark.parametrize(("probability", "allowed"), [(1.0, {4}), (0.0, set(range(10)) - {4})])
def test_clutter_comes_from_the_class_that_was_asked_for(
    handwriting: core.Handwriting, probability: float, allowed: set[int]
) -> None:
    config = Config(own_class_clutter=probability)
    digit = int(np.flatnonzero(handwriting.classes == 4)[0])
    # Digits without ink, but for those that may be used: any layer with no ink is a wrong one.
    usable = np.isin(handwriting.classes, list(allowed))
    usable[digit] = False
    marked = core.Handwriting(
        np.broadcast_to(usable[:, None, None], handwriting.glyphs.shape).astype(np.float32),
        handwriting.classes,
    )
    rng = core.generator(0, 0)
    for _ in range(50):
        layer = core.place_fragment(rng, marked, digit, np.arange(NUM_DIGITS), config)
        assert layer.mask.max() == 1


def test_a_split_draws_its_clutter_from_itself(handwriting: core.Handwriting) -> None:
    pool = core.split(handwriting.classes, (60, 50, 50), seed=0)["val"]
    outside = np.setdiff1d(np.arange(NUM_DIGITS), pool)
    blanked = core.Handwriting(handwriting.glyphs.copy(), handwriting.classes)
    blanked.glyphs[outside] = 0
    for digit in map(int, pool[:10]):
        one, two = (core.render(hand, digit, 1, pool, Config()) for hand in (handwriting, blanked))
        np.testing.assert_array_equal(one, two)


def test_run_writes_class_folders_of_both_formats(tmp_path: Path) -> None:
    counts = run.run(SMALL, tmp_path / "data" / "digits", NoProgress()).numbers
    assert counts == {"train": 120, "val": 50, "test": 50}
    for name, count in {"train": 120, "val": 50, "test": 50}.items():
        folder = tmp_path / "data" / "digits" / name
        assert sorted(path.name for path in folder.iterdir()) == [str(k) for k in range(10)]
        files = list(folder.glob("*/*"))
        assert len(files) == count
        assert {path.suffix for path in files} == {".jpg", ".png"}
        for path in files:
            with Image.open(path) as image:
                image.load()
                assert (image.size, image.mode) == ((48, 48), "RGB")
                assert image.format == {".jpg": "JPEG", ".png": "PNG"}[path.suffix]


def test_run_gives_the_same_bytes_and_replaces_what_was_there(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run.run(SMALL, one, NoProgress())
    two.mkdir()
    (two / "old.txt").write_text("left from before")
    run.run(SMALL, two, NoProgress())
    assert _digests(one) == _digests(two)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_more_renders_leave_the_old_images_alone(tmp_path: Path) -> None:
    run.run(SMALL, tmp_path / "few", NoProgress())
    run.run(SMALL.model_copy(update={"renders_train": 3}), tmp_path / "more", NoProgress())
    few, more = _digests(tmp_path / "few"), _digests(tmp_path / "more")
    assert len(more) == len(few) + 60
    assert few.items() <= more.items()


def test_a_run_that_fails_leaves_the_old_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "digits"
    run.run(SMALL, output, NoProgress())
    before = _digests(output)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(run, "_write_image", fail)
    with pytest.raises(OSError, match="disk full"):
        run.run(SMALL, output, NoProgress())
    assert _digests(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_test", 398),
        ("fragment_min", 6),
        ("digit_min", 33),
        ("digit_max", 40),
        ("own_class_clutter", 1.1),
        ("colour", "red"),
    ],
)
def test_impossible_parameters_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        Config.model_validate({field: value})


NOISY = SMALL.model_copy(update={"wrong_labels": 0.15})

NAMES = "8313c197dfc30a357fcaf722488b1d30cd12f14ace51d00268b1cfc42f4e0848"
"""SHA-256 over the sorted paths of SMALL, as they were before labels could be wrong. The bytes were
compared once, and were the same; they are not kept here, for they depend on the libraries."""


def test_without_wrong_labels_the_folder_holds_the_splits_alone(tmp_path: Path) -> None:
    numbers = run.run(SMALL, tmp_path / "digits", NoProgress()).numbers
    assert set(numbers) == set(core.SPLITS)
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == sorted(core.SPLITS)


def test_without_wrong_labels_every_image_lies_where_it_did(tmp_path: Path) -> None:
    run.run(SMALL, tmp_path / "digits", NoProgress())
    names = "".join(sorted(_digests(tmp_path / "digits")))
    assert hashlib.sha256(names.encode()).hexdigest() == NAMES


def test_wrong_labels_move_exactly_their_share_of_the_training_images(
    tmp_path: Path, handwriting: core.Handwriting
) -> None:
    run.run(SMALL, tmp_path / "right", NoProgress())
    report = run.run(NOISY, tmp_path / "wrong", NoProgress())
    assert report.numbers["wrong_labels"] == 18
    right, wrong = _digests(tmp_path / "right"), _digests(tmp_path / "wrong")
    with (tmp_path / "wrong" / "wrong_labels.csv").open(encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    del wrong["wrong_labels.csv"]
    moved = {path for path in wrong if path not in right}
    assert moved == {f"train/{row['path']}" for row in listed}
    assert len(moved) == 18
    for row in listed:
        was = f"train/{row['true_class']}/{Path(row['path']).name}"
        assert row["path"].split("/")[0] != row["true_class"]
        assert right[was] == wrong[f"train/{row['path']}"]  # the same bytes elsewhere
    assert {name: digest for name, digest in wrong.items() if name not in moved}.items() <= (
        right.items()
    )


def test_wrong_labels_are_the_same_again_and_a_larger_share_adds_to_them(
    handwriting: core.Handwriting,
) -> None:
    digits = np.arange(1200)
    classes = handwriting.classes

    def draw(share: float, seed: int = 0) -> dict[tuple[int, int], int]:
        return core.wrong_classes(classes, digits, 5, share, seed)

    assert draw(0.1) == draw(0.1) != draw(0.1, seed=1)
    assert len(draw(0.1)) == 600
    assert len(draw(1 / 9)) == 667  # of 666.7
    assert draw(0.1).items() <= draw(0.2).items()
    assert draw(0) == {}


def test_every_wrong_class_is_as_likely(handwriting: core.Handwriting) -> None:
    wrong = core.wrong_classes(handwriting.classes, np.arange(NUM_DIGITS), 10, 1.0, seed=3)
    steps = [(found - handwriting.classes[digit]) % 10 for (digit, _), found in wrong.items()]
    counts = np.bincount(steps, minlength=10)
    assert counts[0] == 0
    # About 1,997 of each; five standard deviations either way.
    assert np.abs(counts[1:] - len(steps) / 9).max() < 5 * np.sqrt(len(steps) / 9)


def test_fewer_training_digits_are_some_of_those_that_more_are(
    handwriting: core.Handwriting,
) -> None:
    few = core.split(handwriting.classes, (250, 50, 50), seed=0)["train"]
    many = core.split(handwriting.classes, SIZES, seed=0)["train"]
    assert set(few) <= set(many)

"""Which crops a step takes, and how they become tensors."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stages.shared.images import decode
from stages.shared.model_config import PixelSpec
from stages.shared.pixels import crop_resize
from stages.shared.training import image_reader
from stages.shared.training.batches import (
    CropSource,
    FreshCrops,
    StoredCrops,
    select_step,
)
from stages.shared.training.loader import StepBatches, TrainingBatch, iterate_steps
from stages.shared.training.passes import Passes, Turn
from store.batch import LabelBatch
from store.crop_plan import CropPlan
from store.errors import DataError, RetryError
from store.random import path_hashes
from tests.stages.training_world import FakeView, image_table, plan_of, write_images

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SPEC = PixelSpec(size=(16, 12), interpolation="bilinear", mean=MEAN, std=STD, crop_ratio=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    write_images(path, num_per_class=4)
    return path


@pytest.fixture(scope="module")
def view(folder: Path) -> FakeView:
    return FakeView(folder, image_table(folder))


def fresh(view: FakeView, *, m: int = 2, seed: int = 0) -> FreshCrops:
    return FreshCrops(
        files=view.paths(np.arange(view.num_images)),
        targets=view.images.class_ids.astype(np.int64),
        hashes=path_hashes(view.images.paths),
        heights=view.heights,
        widths=view.widths,
        num_classes=3,
        plan=CropPlan(),
        flip=0.5,
        seed=seed,
    )


@given(num_images=st.integers(1, 60), per_step=st.integers(1, 90), seed=st.integers(0, 2**63 - 1))
def test_every_pass_has_every_image_once(num_images: int, per_step: int, seed: int) -> None:
    plan = plan_of(num_images, per_step, seed)
    num_steps = -(-3 * num_images // per_step)
    line: list[tuple[int, int]] = []
    for step in range(num_steps):
        parts = plan.rows(step)
        assert sum(len(rows) for _, rows in parts) == per_step
        line += [(turn.number, int(row)) for turn, rows in parts for row in rows]
    for number in range(3):
        rows = [row for in_pass, row in line if in_pass == number]
        assert sorted(rows) == list(range(num_images))
    assert [number for number, _ in line] == sorted(number for number, _ in line)


@given(
    num_images=st.integers(1, 40),
    per_step=st.integers(1, 12),
    m=st.integers(1, 5),
    warmup=st.sampled_from([0, 0.5, 1, 2, 3]),
    epochs=st.sampled_from([0.3, 1, 2.5, 4, 7, 11]),
)
def test_serrated_passes_cover_every_epoch(
    num_images: int, per_step: int, m: int, warmup: float, epochs: float
) -> None:
    passes = Passes.serrated(
        num_images,
        per_step * m,
        m,
        num_epochs=epochs,
        warmup_epochs=warmup,
        num_steps=None,
    )
    taken: dict[Turn, set[int]] = {}
    for step in range(passes.num_steps):
        pieces = passes.pieces(step)
        assert sum((stop - start) * turn.m for turn, start, stop in pieces) == per_step * m
        assert len({turn.m for turn, _, _ in pieces}) == 1
        for turn, start, stop in pieces:
            places = taken.setdefault(turn, set())
            assert places.isdisjoint(range(start, stop))
            places.update(range(start, stop))
    # Every crop position from 0 up to the last whole epoch is given to every image.
    whole = [turn for turn, places in taken.items() if len(places) == num_images]
    given_to_all = {turn.first + number for turn in whole for number in range(turn.m)}
    assert given_to_all >= set(range(int(epochs)))
    in_warmup = [turn for turn in whole if turn.first < min(warmup, epochs)]
    assert all(turn.m == 1 for turn in in_warmup)


def test_serrated_passes_by_hand() -> None:
    # 10 images, 8 crops a step, m = 4: warm-up of 2 epochs, one pass of 4, 1 epoch left.
    passes = Passes.serrated(10, 8, 4, num_epochs=7, warmup_epochs=2, num_steps=None)
    starts = [passes.turn_of(step) for step in range(passes.num_steps)]
    assert [(turn.first, turn.m) for turn in starts] == (
        [(0, 1)] * 2 + [(1, 1)] * 1 + [(2, 4)] * 5 + [(6, 1)] * 2
    )


@given(step=st.integers(0, 30), count=st.sampled_from([1, 2, 3, 6]))
def test_the_parts_of_a_step_are_the_step(step: int, count: int) -> None:
    plan = plan_of(7, 6, seed=1, m=2)
    whole = [(turn, int(row)) for turn, rows in plan.rows(step) for row in rows]
    parts = [
        (turn, int(row))
        for number in range(count)
        for turn, rows in plan.rows(step, (number, count))
        for row in rows
    ]
    assert parts == whole
    assert all(
        sum(len(rows) for _, rows in plan.rows(step, (number, count))) == 6 // count
        for number in range(count)
    )


def test_a_step_does_not_depend_on_the_steps_before_it() -> None:
    walked = plan_of(50, 7, seed=3)
    line = [walked.rows(step) for step in range(40)]
    for step in (39, 0, 17):
        for (number, rows), (expected_number, expected) in zip(
            plan_of(50, 7, seed=3).rows(step), line[step], strict=True
        ):
            assert number == expected_number
            np.testing.assert_array_equal(rows, expected)


def test_orders_differ_between_passes_and_seeds() -> None:
    plan, other = plan_of(40, 4, seed=0), plan_of(40, 4, seed=1)
    assert plan.order(0).tolist() != plan.order(1).tolist()
    assert plan.order(0).tolist() != other.order(0).tolist()


def test_order_is_pinned() -> None:
    # Changing it would change every student: raise REVISION of the stages that train.
    assert plan_of(10, 4, seed=7).order(2).tolist() == PINNED_ORDER


FIFTH = Turn(5, 10, 2)
PINNED_ORDER = [7, 1, 4, 0, 8, 2, 5, 9, 3, 6]


def all_of(batch: LabelBatch) -> list[NDArray[np.generic]]:
    return [
        batch.boxes, batch.flips, batch.class_ids, batch.weights, batch.tail, batch.targets
    ]  # fmt: skip


def test_truth_has_the_very_same_crops(view: FakeView) -> None:
    rows = np.array([5, 0, 11])
    soft = StoredCrops(view, seed=4).select(rows, Turn(2, 6, 3))
    hard = StoredCrops(view, seed=4, labels="truth").select(rows, Turn(2, 6, 3))
    assert soft.paths == hard.paths
    np.testing.assert_array_equal(soft.batch.boxes, hard.batch.boxes)
    np.testing.assert_array_equal(soft.batch.flips, hard.batch.flips)
    assert hard.batch.class_ids.tolist() == [[[c]] * 3 for c in soft.batch.targets]
    assert (hard.batch.weights == 1).all()
    assert (hard.batch.tail == 0).all()


def test_stored_crops_come_without_replacement(view: FakeView) -> None:
    source = StoredCrops(view, seed=0)
    rows = np.arange(view.num_images)
    tops = [source.select(rows, Turn(n, 2 * n, 2)).batch.boxes[..., 0] for n in range(3)]
    seen = np.sort(np.concatenate(tops, axis=1), axis=1)
    assert (seen == np.arange(6)).all()  # 6 crops, 3 passes of 2: each once


def test_fresh_crops_depend_on_image_and_pass_alone(view: FakeView) -> None:
    source = fresh(view)
    one, other = source.select(np.array([3, 7]), FIFTH), source.select(np.array([7]), FIFTH)
    np.testing.assert_array_equal(one.batch.boxes[1], other.batch.boxes[0])
    assert (one.batch.boxes != source.select(np.array([3, 7]), Turn(6, 12, 2)).batch.boxes).any()
    assert (
        one.batch.boxes != fresh(view, seed=1).select(np.array([3, 7]), FIFTH).batch.boxes
    ).any()


def test_a_step_over_two_passes_is_both_parts(view: FakeView) -> None:
    source, plan = fresh(view), plan_of(view.num_images, 8, seed=0, m=2)
    selection = select_step(source, plan, 1)  # places 8 to 15 of passes of 12
    parts = [source.select(rows, turn) for turn, rows in plan.rows(1)]
    assert [len(part.paths) for part in parts] == [4, 4]
    assert selection.paths == parts[0].paths + parts[1].paths
    for whole, first, second in zip(
        all_of(selection.batch), all_of(parts[0].batch), all_of(parts[1].batch), strict=True
    ):
        np.testing.assert_array_equal(whole, np.concatenate([first, second]))


def batches(source: CropSource, per_step: int = 5, teacher: PixelSpec | None = None) -> StepBatches:
    return StepBatches(source, plan_of(source.num_images, per_step, 0, m=2), SPEC, teacher)


def test_pixels_are_the_crops_in_order(view: FakeView) -> None:
    source = StoredCrops(view, seed=0)
    made = batches(source)
    selection = select_step(source, plan_of(view.num_images, 5, 0, m=2), 3)
    pixels = made.make(3).pixels
    assert pixels.shape == (10, 3, 16, 12)
    assert pixels.dtype == torch.uint8
    for place, path in enumerate(selection.paths):
        image = decode(Path(path).read_bytes())
        boxes, flips = selection.batch.boxes[place], selection.batch.flips[place]
        expected = crop_resize(image, boxes, flips, (16, 12), "bilinear")
        assert torch.equal(pixels[2 * place : 2 * place + 2], expected)


@pytest.mark.parametrize("limit", [-1, image_reader.KEPT_BYTES])
def test_keeping_decoded_images_changes_nothing(
    view: FakeView, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [batches(fresh(view)).make(step).pixels for step in range(6)]
    monkeypatch.setattr(image_reader, "KEPT_BYTES", limit)
    kept = batches(fresh(view))
    for step in range(6):
        assert torch.equal(kept.make(step).pixels, expected[step])


def test_a_teacher_of_another_size_gets_the_same_crops(view: FakeView) -> None:
    source = fresh(view)
    large = PixelSpec(size=(20, 20), interpolation="bicubic", mean=MEAN, std=STD, crop_ratio=1.0)
    batch = batches(source, teacher=large).make(0)
    assert batch.teacher_pixels is not None
    alone = StepBatches(source, plan_of(source.num_images, 5, 0, m=2), large).make(0)
    assert torch.equal(batch.teacher_pixels, alone.pixels)
    assert torch.equal(batch.pixels, batches(source).make(0).pixels)
    assert batches(source, teacher=SPEC).make(0).teacher_pixels is None


def assert_same(batch: TrainingBatch, expected: TrainingBatch) -> None:
    assert torch.equal(batch.pixels, expected.pixels)
    assert torch.equal(batch.labels.class_ids, expected.labels.class_ids)
    assert torch.equal(batch.labels.weights, expected.labels.weights)
    assert torch.equal(batch.labels.tail, expected.labels.tail)
    assert torch.equal(batch.labels.targets, expected.labels.targets)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_steps_come_in_order_whatever_the_workers(view: FakeView, num_workers: int) -> None:
    made = batches(StoredCrops(view, seed=0))
    found = list(iterate_steps(made, 2, 7, num_workers=num_workers))
    assert len(found) == 5
    for step, batch in enumerate(found, start=2):
        assert_same(batch, made.make(step))


def test_loading_leaves_the_global_random_state_alone(view: FakeView) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(iterate_steps(batches(fresh(view)), 0, 2, num_workers=0))
    assert torch.equal(torch.rand(3), expected)


def test_sources_and_batches_can_be_sent_to_processes(view: FakeView) -> None:
    made = batches(StoredCrops(view, seed=0))
    copy: StepBatches = pickle.loads(pickle.dumps(made))
    assert_same(copy.make(4), made.make(4))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", "missing"),
        ("truncated", "damaged"),
        ("other size", "is 9x8 pixels, but was 24x"),
    ],
)
def test_a_bad_image_is_named(tmp_path: Path, damage: str, reason: str, num_workers: int) -> None:
    write_images(tmp_path, num_per_class=2)
    bad = tmp_path / "green" / "1.png"
    view = FakeView(tmp_path, image_table(tmp_path))
    view.heights[3] = 24
    if damage == "missing":
        bad.unlink()
    elif damage == "truncated":
        bad.write_bytes(bad.read_bytes()[:100])
    else:
        Image.new("RGB", (8, 9)).save(bad)
    with pytest.raises(DataError, match=reason) as caught:
        list(iterate_steps(batches(fresh(view)), 0, 3, num_workers=num_workers))
    assert str(caught.value).startswith(str(bad))
    assert "run `ferkd-pipeline stage index` again" in str(caught.value)
    assert "\n" not in str(caught.value)


class DyingView(FakeView):
    def paths(self, rows: NDArray[np.int64]) -> list[str]:
        import os

        os._exit(9)


def test_a_dead_worker_is_told(folder: Path) -> None:
    source = StoredCrops(DyingView(folder, image_table(folder)), seed=0)
    with pytest.raises(RetryError, match="lower num_workers"):
        list(iterate_steps(batches(source), 0, 2, num_workers=1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), number=st.integers(0, 2**40))
def test_any_seed_and_pass_will_do(seed: int, number: int) -> None:
    assert sorted(plan_of(9, 2, seed).order(number)) == list(range(9))

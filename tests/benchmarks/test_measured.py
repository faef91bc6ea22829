import mmap
import time

import numpy as np
import pytest

from benchmarks import fetching, measure, report
from benchmarks.arrays import Labels, Ranked, ranked_of
from benchmarks.sizes import divergence
from benchmarks.synthetic import Synthetic
from store.codecs import LabelSpec

SPEC = LabelSpec("marginal_smoothing", 5, 1000, "compact")


@pytest.fixture(scope="module")
def made() -> tuple[Labels, Ranked]:
    return Synthetic(64, num_crops=10).labels()


def changed(labels: Labels, probs: np.ndarray) -> Labels:
    return Labels(labels.table, labels.boxes, labels.flips, labels.class_ids, probs)


def test_labels_do_not_diverge_from_themselves(made: tuple[Labels, Ranked]) -> None:
    mean, largest = divergence(SPEC, made[0], made[0])
    assert abs(mean) < 1e-7 and abs(largest) < 1e-6


def test_divergence_is_that_of_the_dense_labels(made: tuple[Labels, Ranked]) -> None:
    labels, num_free = made[0], 995
    moved = (labels.probs * np.float32(0.9)).astype(np.float32)
    mean, largest = divergence(SPEC, labels, changed(labels, moved))

    def dense(probs: np.ndarray) -> np.ndarray:
        p = probs.reshape(-1, 5).astype(np.float64)
        even = (1 - p.sum(axis=1, keepdims=True)) / num_free
        return np.hstack([p, np.repeat(even, num_free, axis=1)])

    p, q = dense(labels.probs), dense(moved)
    expected = (p * np.log(p / q)).sum(axis=1)
    assert mean == pytest.approx(expected.mean(), rel=1e-4)
    assert largest == pytest.approx(expected.max(), rel=1e-4)


def test_divergence_of_other_classes_is_refused(made: tuple[Labels, Ranked]) -> None:
    labels = made[0]
    other = Labels(
        labels.table, labels.boxes, labels.flips, labels.class_ids[..., ::-1], labels.probs
    )
    with pytest.raises(AssertionError):
        divergence(SPEC, labels, other)


def test_given_labels_become_predictions_of_the_same_values(made: tuple[Labels, Ranked]) -> None:
    labels, ranked = made
    again = ranked_of(labels)
    np.testing.assert_array_equal(again.topk_class, ranked.topk_class)
    np.testing.assert_allclose(again.topk_logp, ranked.topk_logp, rtol=2e-3)
    at = labels.class_ids == labels.table.class_ids[:, None, None]
    inside = at.any(axis=2)
    np.testing.assert_allclose(again.target_logp[inside], ranked.target_logp[inside], rtol=2e-3)


def test_the_best_round_counts_and_tasks_take_turns() -> None:
    calls: list[str] = []
    pauses = {"a": iter([0.02, 0.001, 0.02]), "b": iter([0.02, 0.02, 0.02])}

    def task(name: str) -> float:
        calls.append(name)
        time.sleep(next(pauses[name]))
        return 10.0

    rates = measure.best_rates({"a": lambda: task("a"), "b": lambda: task("b")}, 3)
    assert calls == ["a", "b"] * 3
    assert rates["a"] > 1000 > 510 > rates["b"]


def test_memory_that_was_written_is_seen() -> None:
    before = measure.private_dirty_mb()
    with measure.AnonymousPeak() as peak:
        # Of the system: the heap of a process that ran other tests has room for an array.
        block = mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.write(bytes([1]) * len(block))
        assert measure.private_dirty_mb() - before > 50
        time.sleep(0.1)
        block.close()
    assert peak.mb > 60


def test_every_format_is_asked_for_the_same_crops() -> None:
    first, again = fetching.picks_of(300, 20), fetching.picks_of(300, 20)
    assert len(first) == len(again)
    for (images, crops), (same_images, same_crops) in zip(first, again, strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(crops, same_crops)
    images = np.concatenate([each for each, _ in first])
    assert len(np.unique(images[:300])) == 300
    assert max(crops.max() for _, crops in first) == 19


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (12.3456, "12.35"), (0.000123456, "0.000123")]
)
def test_numbers_have_a_few_digits(value: float, text: str) -> None:
    assert report.number(value) == text

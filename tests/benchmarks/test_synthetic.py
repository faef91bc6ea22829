from itertools import pairwise

import numpy as np
import pytest

from benchmarks.entropy import entropy, ids_given_image
from benchmarks.synthetic import Synthetic

DATA = Synthetic(1000, num_crops=100)

# FerKD's Table 1, percent of crops by the largest probability.
EDGES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1)
SHARES = (0.43, 0.89, 1.29, 2.03, 3.66, 4.35, 5.04, 7.76, 8.14, 28.73, 37.34, 0.33)


def test_the_maximum_follows_ferkds_table_1() -> None:
    _, probs = Synthetic(4000, num_crops=20).ranked(0, 4000)
    counts = np.histogram(probs[..., 0], EDGES)[0]
    np.testing.assert_allclose(100 * counts / counts.sum(), SHARES, atol=1.0)


def test_the_difficulty_of_an_image_shows_in_all_its_crops() -> None:
    _, probs = DATA.ranked(0, 1000)
    maximum = probs[..., 0]
    assert 0.3 < maximum.mean(axis=1).var() / maximum.var() < 0.8


def test_a_shard_alone_is_what_it_is_among_all() -> None:
    every, probs = DATA.ranked(0, 200)
    for start, stop in ((0, 5), (31, 33), (37, 101), (160, 200)):
        alone, own_probs = DATA.ranked(start, stop)
        np.testing.assert_array_equal(own_probs, probs[start:stop])
        for name in ("topk_class", "topk_logp", "target_logp", "logsumexp"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(every, name)[start:stop])


def test_another_seed_makes_other_labels() -> None:
    other, _ = Synthetic(1000, num_crops=100, seed=1).ranked(0, 32)
    assert not np.array_equal(other.topk_class, DATA.ranked(0, 32)[0].topk_class)


@pytest.mark.parametrize("num_ranked", [1, 5, 16])
def test_labels_are_labels(num_ranked: int) -> None:
    ranked, probs = Synthetic(200, num_crops=50, num_ranked=num_ranked).ranked(0, 200)
    assert probs.shape == ranked.topk_class.shape == (200, 50, num_ranked)
    assert (np.diff(probs, axis=2) <= 0).all()
    assert (probs > 0).all() and (probs.sum(axis=2) <= 1).all()
    sorted_ids = np.sort(ranked.topk_class, axis=2)
    assert (np.diff(sorted_ids.astype(int), axis=2) > 0).all()
    assert sorted_ids.max() < 1000


def test_log_probabilities_are_those_of_the_probabilities() -> None:
    ranked, probs = DATA.ranked(0, 100)
    np.testing.assert_allclose(np.exp(ranked.topk_logp.astype(float)), probs, rtol=0.01)
    at = ranked.topk_class == DATA.class_ids(0, 100)[:, None, None]
    is_ranked = at.any(axis=2)
    np.testing.assert_array_equal(ranked.topk_logp[at], ranked.target_logp[is_ranked])
    assert (ranked.target_logp[~is_ranked] <= ranked.topk_logp[~is_ranked][:, -1]).all()
    assert 0 < (~is_ranked).mean() < 0.02


def test_the_surer_the_teacher_the_more_often_it_is_right() -> None:
    ranked, probs = DATA.ranked(0, 1000)
    right = ranked.topk_class[..., 0] == DATA.class_ids(0, 1000)[:, None]
    maximum = probs[..., 0]
    edges = (0.0, 0.3, 0.6, 0.8, 1.0)
    shares = [right[(maximum >= low) & (maximum < high)].mean() for low, high in pairwise(edges)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5 and shares[-1] > 0.95


def test_the_crops_of_an_image_share_their_candidates() -> None:
    ranked, _ = DATA.ranked(0, 300)
    of_image = [len(np.unique(image)) for image in ranked.topk_class]
    assert max(of_image) <= 24
    assert len(np.unique(ranked.topk_class)) > 500


def test_the_entropies_are_those_of_the_measured_labels() -> None:
    ranked, probs = Synthetic(300).ranked(0, 300)
    bits = ids_given_image(ranked.topk_class)
    assert 14 < sum(bits) < 16  # 15.0 measured
    assert bits[0] < 1 < bits[1]
    assert 9 < entropy(probs[..., 0].astype(np.float16)) < 10.5


def test_the_table_is_sorted_and_boxes_lie_in_their_images() -> None:
    synthetic = Synthetic(2500, num_crops=4)
    labels, _ = synthetic.labels(7, 1500)
    table = synthetic.table()
    encoded = [path.encode() for path in table.paths]
    assert encoded == sorted(encoded) and len(set(encoded)) == 2500
    assert (table.class_ids == synthetic.class_ids(0, 2500)).all()
    assert {path.split("/")[1] for path in table.paths} == set(table.class_names)
    assert len(set(table.content_hashes)) == 2500
    assert labels.table.paths[0] == table.paths[7]
    sides = np.stack([labels.table.heights, labels.table.widths], axis=1)[:, None]
    assert (labels.boxes[..., :2] >= 0).all()
    assert (labels.boxes[..., :2] + labels.boxes[..., 2:] <= sides).all()
    assert 0.4 < labels.flips.mean() < 0.6


@pytest.mark.parametrize("wrong", [{"num_ranked": 17}, {"num_ranked": 0}, {"num_classes": 40}])
def test_impossible_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Synthetic(10, **wrong)

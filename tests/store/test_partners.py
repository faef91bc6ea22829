"""Which image a crop is mixed with: every other one alike, and hardly moved by those that come."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from store.partners import NUM_CANDIDATES, PartnerRing
from store.random import Purpose, draw_words, mix_words, path_hashes

SEED = 11


def hashes_of(count: int, salt: int = 0) -> NDArray[np.uint64]:
    return path_hashes(f"{salt}/{number}.jpg" for number in range(count))


def drawn(hashes: NDArray[np.uint64], num_draws: int, seed: int = SEED) -> NDArray[np.int32]:
    return PartnerRing(hashes).draw(seed, np.arange(len(hashes)), num_draws)


def slow(hashes: NDArray[np.uint64], image: int, num_draws: int) -> list[int]:
    """The rule, draw by draw and image by image."""
    words = draw_words(SEED, hashes[[image]], num_draws, purpose=Purpose.PARTNER)[0]
    found = []
    for word in words.tolist():
        others = [each for each in range(len(hashes)) if each != image]
        others.sort(key=lambda each: (int(hashes[each]) - word) % 2**64)
        keys = hashes[others[:NUM_CANDIDATES]] ^ np.uint64(word)
        found.append(others[int((mix_words(keys) | np.uint64(1)).argmax())])
    return found


@given(st.integers(2, 90), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_as_the_rule_says(count: int, salt: int) -> None:
    hashes = hashes_of(count, salt)
    found = drawn(hashes, 6)
    for image in range(0, count, 1 + count // 5):
        assert found[image].tolist() == slow(hashes, image, 6)


@given(st.integers(2, 120), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_never_itself_and_more_draws_move_none(count: int, num_draws: int, salt: int) -> None:
    hashes = hashes_of(count, salt)
    found = drawn(hashes, num_draws)
    assert found.shape == (count, num_draws)
    assert found.min() >= 0
    assert found.max() < count
    assert (found != np.arange(count)[:, None]).all()
    np.testing.assert_array_equal(drawn(hashes, num_draws + 3)[:, :num_draws], found)
    some = np.arange(count)[:: 1 + count // 3]
    np.testing.assert_array_equal(PartnerRing(hashes).draw(SEED, some, num_draws), found[some])


@given(st.integers(2, 150), st.integers(0, 150), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_an_image_that_is_added_moves_only_what_it_takes_or_pushes_out(
    count: int, place: int, salt: int
) -> None:
    """Wherever it stands in the list: ids move, and draws do not."""
    before, new = hashes_of(count, salt), hashes_of(1, salt + 1000)
    place = min(place, count)
    after = np.insert(before, place, new)
    old = np.flatnonzero(after != new)
    was = before[drawn(before, 8)]
    now = after[drawn(after, 8)[old]]
    words = draw_words(SEED, before, 8, purpose=Purpose.PARTNER)
    moved = now != was
    to_it = now == new
    assert (moved | ~to_it).all()
    for image, number in np.argwhere(moved & ~to_it):
        # The new one stands among the candidates, and the one that was drawn no longer does.
        word = int(words[image, number])
        others = [int(each) for each in after if each != before[image]]
        others.sort(key=lambda each: (each - word) % 2**64)
        window = others[:NUM_CANDIDATES]
        assert int(new[0]) in window
        assert int(was[image, number]) == others[NUM_CANDIDATES]
    if count <= NUM_CANDIDATES:
        assert (moved == to_it).all()


def test_few_draws_move() -> None:
    before, new = hashes_of(2000), hashes_of(20, salt=5)
    was, now = drawn(before, 40), drawn(np.concatenate([before, new]), 40)[:2000]
    share = (was != now).mean()
    assert 20 / 2020 * 1.4 < share < 20 / 2020 * 2.6  # twice 20 of 2,020, about


def test_every_image_is_drawn_alike() -> None:
    """The plain ring's spread is 1: a window of 32 makes it 0.18, Poisson's own put aside."""
    counts = np.bincount(drawn(hashes_of(1000), 400).reshape(-1), minlength=1000)
    spread = np.sqrt(counts.var() - 400) / 400
    assert counts.min() > 0.4 * 400
    assert counts.max() < 1.8 * 400
    assert spread < 0.22
    # So few that all others are candidates: nothing is left but Poisson's.
    few = np.bincount(drawn(hashes_of(20), 4000).reshape(-1), minlength=20)
    assert np.abs(few / 4000 - 1).max() < 0.08


def test_seeds_and_images_draw_for_themselves() -> None:
    hashes = hashes_of(300)
    one, other = drawn(hashes, 50), drawn(hashes, 50, seed=SEED + 1)
    assert (one == other).mean() < 0.01
    assert (one[0] == one[1]).mean() < 0.1

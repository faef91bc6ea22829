"""Which other image a crop is mixed with: drawn so that images that come or go move few draws.

Shapes: N images of the store, n images of a part, G draws an image, W candidates.

All images lie on a ring of 64 bits, each at the xxh3-64 of its path. A draw is a random word: its
candidates are the next W other images on the ring, and of these it takes the one whose hash, mixed
with the word, is largest (rendezvous hashing within a window of consistent hashing). Nothing of it
depends on ids, on N or on shards. So an image that is added takes over the draws that choose it,
and pushes the last candidate out of W windows: about 2 draws in N change, and no others.

The plain ring is W = 1: then an image is drawn in proportion to its distance from the one before
it, which is exponential: one in twenty three times too often, one in ten less than a tenth as
often. Averaged over W = 32 distances that is a spread of 1 / sqrt(W), 18 %.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from store.random import Purpose, draw_words, mix_words

NUM_CANDIDATES = 32
"""W; it belongs to the draw."""

_DRAWS_A_CHUNK = 4096  # a megabyte of candidates: they stay in the cache

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


class PartnerRing:
    """All images of a store, to draw from."""

    def __init__(self, hashes: U64) -> None:
        """``hashes`` are `path_hashes` of all images (N,), by id; there are two or more."""
        assert len(hashes) > 1, "one image has no partner"
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes
        self._sorted = hashes[order]
        # One more than are wanted, for the image itself may be among them.
        self._window = min(NUM_CANDIDATES + 1, len(hashes))
        self._ids = np.concatenate([order, order[: self._window - 1]]).astype(np.int32)
        self._candidates = sliding_window_view(hashes[self._ids], self._window)

    def draw(self, seed: int, image_ids: I64, num_draws: int) -> NDArray[np.int32]:
        """Return ``num_draws`` other images (n, G) for each of ``image_ids`` (n,).

        More draws leave the first ones alone.
        """
        own = self._hashes[image_ids]
        words = draw_words(seed, own, num_draws, purpose=Purpose.PARTNER).reshape(-1)
        owners = np.repeat(own, num_draws)
        found = np.empty(len(words), np.int32)
        for start in range(0, len(words), _DRAWS_A_CHUNK):
            cut = slice(start, start + _DRAWS_A_CHUNK)
            found[cut] = self._choose(words[cut], owners[cut])
        return found.reshape(len(image_ids), num_draws)

    def _choose(self, words: U64, owners: U64) -> NDArray[np.int32]:
        """The images that words (n G,) stand for, drawn for those of the hashes ``owners``."""
        first = np.searchsorted(self._sorted, words)
        first[first == len(self._sorted)] = 0
        candidates = self._candidates[first]  # (n G, W + 1)
        scores = mix_words(candidates ^ words[:, None])
        # No score is 0 but one in 2**64: it stands for those that are left out.
        is_own = candidates == owners[:, None]
        scores[is_own] = 0
        if self._window > NUM_CANDIDATES:
            scores[~is_own.any(axis=1), -1] = 0
        return np.asarray(self._ids[first + scores.argmax(axis=1)])

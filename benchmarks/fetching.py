"""Random fetches: which crops, and how many images a second.

Shapes: N images, M crops, B = 256 images of a batch, m = 4 crops an image of a batch.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.arrays import Reader
from benchmarks.measure import best_rates
from benchmarks.peers.ours import ViewReader
from store.view.reader import TrainingView

BATCH, CROPS_AN_IMAGE = 256, 4
_NUM_BATCHES = 1024
_FETCH_SECONDS = 0.25

Picks = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def picks_of(num_images: int, num_crops: int, seed: int = 0) -> Picks:
    """1,024 batches of images and crops; the same for every format of that size.

    Images come as in training, a permutation of all after the other. A million crops in all: what
    was fetched has left the processor's caches before it comes again, if the view is large enough.
    """
    rng = np.random.default_rng(seed)
    needed = _NUM_BATCHES * BATCH
    passes = [rng.permutation(num_images) for _ in range(-(-needed // num_images))]
    images = np.concatenate(passes)[:needed].reshape(_NUM_BATCHES, BATCH)
    crops = rng.integers(0, num_crops, (_NUM_BATCHES, BATCH, CROPS_AN_IMAGE))
    return list(zip(images, crops, strict=True))


def fetch_task(reader: Reader, picks: Picks) -> Callable[[], float]:
    """Fetch batches for a quarter of a second; returns images.

    Formats that need longer for one batch get smaller ones: so many of the same picks.
    """
    rows, crops = picks[0]
    began = time.perf_counter()
    reader.fetch(rows[:2], crops[:2])
    one = (time.perf_counter() - began) / 2
    size = min(BATCH, max(2, int(4 * _FETCH_SECONDS / one)))

    def run() -> float:
        done, place, until = 0, 0, time.perf_counter() + _FETCH_SECONDS
        while time.perf_counter() < until:
            image_ids, chosen = picks[place % len(picks)]
            reader.fetch(image_ids[:size], chosen[:size])
            done, place = done + size, place + 1
        return float(done)

    return run


def draw_rates(view: TrainingView, rounds: int) -> dict[str, float]:
    """Images a second of drawing crops alone, and of drawing, then gathering calibrated labels."""
    picks = picks_of(view.num_images, view.num_crops)
    m = min(CROPS_AN_IMAGE, view.num_crops)

    def draw() -> float:
        for number, (image_ids, _) in enumerate(picks):
            view.draw(image_ids, number * m, m, seed=0)
        return sum(len(image_ids) for image_ids, _ in picks)

    def draw_and_gather() -> float:
        for number, (image_ids, _) in enumerate(picks):
            view.gather(image_ids, view.draw(image_ids, number * m, m, seed=0))
        return sum(len(image_ids) for image_ids, _ in picks)

    return best_rates({"draw_rate": draw, "draw_and_gather_rate": draw_and_gather}, rounds)


def view_fetch_rate(view: TrainingView, rounds: int) -> float:
    """Images a second of a view that may be larger than the other formats'."""
    picks = picks_of(view.num_images, view.num_crops)
    reader = ViewReader(view)
    return best_rates({"fetch": fetch_task(reader, picks)}, rounds)["fetch"]

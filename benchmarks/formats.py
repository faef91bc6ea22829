"""Every format with the same labels: size, random fetches and a scan, interleaved on one core.

Shapes: N images, M crops.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.arrays import Labels, Reader, Scanner
from benchmarks.fetching import fetch_task, picks_of
from benchmarks.measure import best_rates
from benchmarks.peers.listed import PEERS

_SCAN_SECONDS = 0.4
_SCAN_ROUNDS = 3
_CHECKED = 48
"""Images whose values are compared with what was written, for each format."""


Figures = dict[str, float | None]
"""Of one format: ``fetch_rate`` in images a second (None: it has no fetch), ``scan_rate`` in crops
a second, both of the best round."""


def write_peers(folder: Path, stored: Labels) -> dict[str, Reader]:
    """Write all other formats and open them, by name."""
    readers: dict[str, Reader] = {}
    for peer in PEERS:
        own = folder / peer.name
        own.mkdir(parents=True)
        peer.write(own, stored)
        readers[peer.name] = peer.open_reader(own, stored)
    return readers


def check(readers: dict[str, Reader], stored: Labels) -> None:
    """Raise where a format returns something else than was written to it.

    Probabilities are compared as float16, which some of the formats keep.
    """
    image_ids, crops = picks_of(stored.num_images, stored.num_crops)[0]
    rows, crops = image_ids[:_CHECKED], crops[:_CHECKED]
    pick = rows[:, None], crops
    for name, reader in readers.items():
        found = reader.fetch(rows, crops)
        is_same = (
            np.array_equal(found.boxes, stored.boxes[pick])
            and np.array_equal(found.flips, stored.flips[pick])
            and np.array_equal(found.class_ids, stored.class_ids[pick])
            and np.allclose(found.probs, stored.probs[pick], rtol=2**-11, atol=2**-24)
        )
        if not is_same:
            raise AssertionError(f"{name} returns other labels than it was given")


def measure(
    readers: dict[str, Reader], scanned_only: Mapping[str, Scanner], stored: Labels, rounds: int
) -> dict[str, Figures]:
    """Rates of every format, all in turn in each round."""
    picks = picks_of(stored.num_images, stored.num_crops)
    fetches = {name: fetch_task(reader, picks) for name, reader in readers.items()}
    scanners: dict[str, Scanner] = {**readers, **scanned_only}
    scans = {name: scan_task(scanner) for name, scanner in scanners.items()}
    fetched = best_rates(fetches, rounds)
    scanned = best_rates(scans, min(rounds, _SCAN_ROUNDS))
    return {
        name: {"fetch_rate": fetched.get(name), "scan_rate": rate} for name, rate in scanned.items()
    }


def scan_task(reader: Scanner) -> Callable[[], float]:
    """Read on from the start for 0.4 seconds, or to the end; returns crops."""

    def run() -> float:
        done, until = 0, time.perf_counter() + _SCAN_SECONDS
        for part in reader.scan():
            done += part.flips.size
            if time.perf_counter() > until:
                break
        return float(done)

    return run

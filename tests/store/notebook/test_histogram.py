"""The histogram of maximum probabilities."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store import entries
from store.codecs import LabelSpec
from store.notebook.label_store import LabelStore
from store.precision import Precision, round_probability
from tests.store.small_store import (
    NUM_CROPS,
    NUM_IMAGES,
    REJECTED,
    SPEC,
    SmallStore,
    build,
    republish_with,
)

NUM_ROWS = NUM_IMAGES * NUM_CROPS


@pytest.mark.parametrize(
    "spec", [SPEC, replace(SPEC, kind="hard"), replace(SPEC, kind="full")], ids=lambda s: s.kind
)
def test_histogram_of_the_maximum(tmp_path: Path, spec: LabelSpec) -> None:
    small = build(tmp_path / "labels", spec)
    edges, counts = LabelStore(small.root).max_prob_counts(10)
    usable = np.delete(small.probs, REJECTED, axis=0).max(axis=-1)
    assert counts.tolist() == np.histogram(usable.astype(np.float16), edges)[0].tolist()
    assert counts.sum() == (NUM_IMAGES - 1) * NUM_CROPS
    assert (edges[0], edges[-1], len(edges)) == (0, 1, 11)


@pytest.mark.parametrize("precision", ["float16", "compact"])
def test_an_edge_of_the_histogram_belongs_to_the_bin_above(
    own: SmallStore, precision: Precision
) -> None:
    """0.1 as float16 is 0.09998: it must not count as less."""
    edges = np.arange(21) / 20
    stored = round_probability(np.resize(edges, NUM_ROWS // 2), precision)
    for part in ("part-00000", "part-00001"):
        entry = republish_with(own, "soft", part, columns={"prob_0": stored})
        label = {**entry.attributes["label"], "precision": precision}
        entries.publish(own.layout, replace(entry, attributes={**entry.attributes, "label": label}))
    found, counts = LabelStore(own.root).max_prob_counts(20)
    assert found.tolist() == edges.tolist()
    expected = np.histogram(np.resize(edges, NUM_ROWS // 2), edges)[0]
    assert counts.tolist() == (2 * expected).tolist()
    below = np.nextafter(np.float16(0.1), np.float16(0))
    columns = {"prob_0": np.full(NUM_ROWS // 2, below, np.float32)}
    republish_with(own, "soft", "part-00001", columns=columns)
    assert LabelStore(own.root).max_prob_counts(10)[1][0] >= NUM_ROWS // 2

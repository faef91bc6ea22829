"""Labels as probabilities of every class, decoded from what is stored."""

from dataclasses import replace

import numpy as np
import pytest

from store import entries
from store.errors import DataError, ParamsError
from store.notebook import decoding
from store.notebook.label_store import LabelStore
from tests.store.small_store import NAME, NUM_CLASSES, REJECTED, SmallStore

SHARD = 1


def test_decoding_is_the_codec(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    rows = opened.labels(calibration=NAME).sample(20, random_state=0)
    probs = opened.decode(rows)
    assert probs.columns.tolist() == list(opened.classes)
    assert probs.index.equals(rows.index)
    flat = small.probs.reshape(-1, NUM_CLASSES)[rows.index]
    top_two = np.sort(flat, axis=1)[:, -2:].sum(axis=1)
    rest = (1 - top_two) / (NUM_CLASSES - 2)
    expected = np.where(flat >= np.sort(flat, axis=1)[:, -2:-1], flat, rest[:, None])
    np.testing.assert_allclose(probs, np.where(np.isnan(flat), np.nan, expected), atol=2e-3)
    assert probs.isna().all(axis=1).tolist() == (rows["image_id"] == REJECTED).tolist()
    trained = opened.decode(rows, calibrated=True)
    softened = rows["action_name"] == "soften"
    hot = np.eye(NUM_CLASSES)[rows["target"]]
    np.testing.assert_allclose(trained[softened], 0.875 * hot[softened] + 0.125 / 5, atol=1e-7)
    kept = rows["action_name"] == "keep"
    np.testing.assert_array_equal(trained[kept], probs[kept])
    assert trained[rows["action_name"] == "drop"].isna().all(axis=None)


def test_dense_labels_decode_from_their_arrays(full: SmallStore) -> None:
    opened = LabelStore(full.root)
    rows = opened.labels().sample(frac=1, random_state=0)
    expected = full.probs.reshape(-1, NUM_CLASSES)[rows.index]
    np.testing.assert_allclose(opened.decode(rows), expected, atol=1e-3)
    np.testing.assert_allclose(opened.decode(SHARD), opened.decode(opened.soft(SHARD)))
    some = opened.labels()
    some = some[some["image_id"].isin([0, 2, 3, 6])]  # neighbours, gaps and two shards
    expected = full.probs.reshape(-1, NUM_CLASSES)[some.index]
    np.testing.assert_allclose(opened.decode(some), expected, atol=1e-3)


def test_top_classes_have_names(small: SmallStore) -> None:
    opened = LabelStore(small.root)
    rows = opened.image(1, arrow=True)
    top = opened.top(rows, 2)
    flat = small.probs[1]
    order = np.argsort(-flat, axis=1)[:, :2]
    names = [[f"klasse {c}" for c in row] for row in order]
    assert top[["name_0", "name_1"]].to_numpy().tolist() == names
    np.testing.assert_allclose(top["prob_0"], flat.max(axis=1), atol=1e-3)
    rejected = opened.top(opened.image(REJECTED), 9)
    assert len(rejected.columns) == 2 * NUM_CLASSES
    assert rejected.isna().all(axis=None)


def test_what_cannot_be_decoded(own: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = LabelStore(own.root)
    with pytest.raises(
        ParamsError, match=r"no column prob_0; take them from store.labels\(shard\)"
    ):
        opened.decode(opened.soft(0).drop(columns="prob_0"))
    with pytest.raises(ParamsError, match=r"no column teacher_weight; .*calibration=\.\.\."):
        opened.decode(opened.soft(0), calibrated=True)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "MAX_BYTES", 100)
        with pytest.raises(ParamsError, match=r"16 rows of 5 classes .*decode fewer rows"):
            opened.decode(0)
    entry = entries.read_entry(own.layout.entry("soft", "part-00000"))
    label = {**entry.attributes["label"], "kind": "logits"}
    entries.publish(own.layout, replace(entry, attributes={**entry.attributes, "label": label}))
    with pytest.raises(DataError, match=r"logits has no classes and no probabilities.*arrays"):
        opened.decode(0)
    for path in own.layout.folder("soft").glob("_*.json"):
        path.unlink()
    with pytest.raises(DataError, match="holds no labels; run `ferkd-pipeline stage compress`"):
        opened.decode(opened.crops(0))

"""Bytes: of this store, measured, and of the reference's layout, computed."""

from store.codecs import LabelSpec
from store.inspection.sizes import reference_bytes_per_crop, reference_sizes
from tests.store.inspection.worlds import stats
from tests.store.small_store import SmallStore


def test_the_reference_s_arithmetic() -> None:
    table = reference_sizes(LabelSpec("marginal_smoothing", 5, 1000), 200 * 1_200_000)
    assert {each.kind: each.bytes_per_crop for each in table} == {
        "hard": 24,
        "smoothing": 28,
        "marginal_smoothing, K = 5": 60,
        "marginal_smoothing, K = 10": 100,
        "full": 4020,
    }
    assert table[0].num_bytes == 24 * 200 * 1_200_000
    assert reference_bytes_per_crop(LabelSpec("marginal_renorm", 7, 1000)) == (5 + 14) * 4
    assert reference_bytes_per_crop(LabelSpec("full", 1, 10)) == 60


def test_every_byte_of_crops_and_labels_is_listed_once(small: SmallStore) -> None:
    found = stats(small.root)
    files = [
        path
        for artifact in ("crops", "soft")
        for path in small.layout.folder(artifact).glob("*.parquet")
    ]
    assert sum(each.num_bytes for each in found.columns) == sum(p.stat().st_size for p in files)
    uses = {each.column: each.use for each in found.columns}
    assert uses["top"] == "box" and uses["flip"] == "flip" and uses["target"] == "ids"
    assert uses["class_1"] == "classes" and uses["prob_0"] == "probabilities"
    assert uses["target_prob"] == "calibration"

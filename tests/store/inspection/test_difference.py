from dataclasses import replace
from pathlib import Path

import pytest

from store import entries
from store.errors import DataError
from store.inspection.difference import Change, StoreDifference, compare, flatten, state_of
from store.overlay import Action
from tests.store.inspection.worlds import publish_overlay
from tests.store.small_store import (
    NAME,
    NUM_CROPS,
    NUM_IMAGES,
    SPEC,
    SmallStore,
    build,
)


def diff(a: SmallStore, b: SmallStore) -> StoreDifference:
    return compare(state_of(a.root), state_of(b.root))


def test_a_store_is_the_same_as_its_copy(small: SmallStore, own: SmallStore) -> None:
    found = diff(small, own)
    assert found.is_same
    assert {each.state for each in found.artifacts} == {"same"}
    assert [each.artifact for each in found.artifacts][-1] == f"calibrated/{NAME}"
    assert not any(each.params or each.inputs or each.software for each in found.artifacts)


def test_another_kind_of_label(small: SmallStore, tmp_path: Path) -> None:
    other = build(tmp_path / "labels", replace(SPEC, k=1))
    found = {each.artifact: each for each in diff(small, other).artifacts}
    assert {name: each.state for name, each in found.items()} == {
        "images": "same",
        "rejects": "same",
        "crops": "same",
        "predictions": "same",
        "soft": "differs",
        # Its rows do not depend on the label, but it was made from another one.
        f"calibrated/{NAME}": "same rows",
    }
    soft = found["soft"]
    assert soft.differing == ["part-00000", "part-00001"]
    assert soft.params == [Change("label.k", 2, 1, 2)]
    assert soft.attributes == [Change("label.k", 2, 1, 2)]
    digests = found[f"calibrated/{NAME}"].inputs
    assert [(change.path, change.num_parts) for change in digests] == [("label.k", 2), ("soft", 2)]
    assert not diff(small, other).is_same


def test_only_in_one(small: SmallStore, own: SmallStore) -> None:
    for path in own.layout.folder(f"calibrated/{NAME}").iterdir():
        path.unlink()
    there = diff(small, own).artifacts[-1]
    back = diff(own, small).artifacts[-1]
    assert (there.state, back.state) == ("only in A", "only in B")
    assert there.rows == (NUM_IMAGES * NUM_CROPS, 0) and back.only_b == ["part-00000", "part-00001"]


def test_software_alone_leaves_the_rows_the_same(small: SmallStore, own: SmallStore) -> None:
    entry = entries.read_entry(own.layout.entry("soft", "part-00001"))
    entries.publish(own.layout, replace(entry, software={**entry.software, "pyarrow": "1.2.3"}))
    found = diff(small, own)
    soft = next(each for each in found.artifacts if each.artifact == "soft")
    assert found.is_same and soft.state == "same rows"
    assert [(c.path, c.b, c.num_parts) for c in soft.software] == [("pyarrow", "1.2.3", 1)]


def test_a_fit_that_differs_is_shown(small: SmallStore, own: SmallStore) -> None:
    state = state_of(own.root)
    fits = {f"calibrated/{NAME}": {"made_of": {}, "fit": {"low": 0.5}}}
    found = compare(state_of(small.root), replace(state, fits=fits)).artifacts[-1]
    assert found.state == "same rows"
    assert found.fit == [Change("fit.low", 1e-05, 0.5, 1)]


def test_counts_are_summed_over_parts(small: SmallStore, tmp_path: Path) -> None:
    other = build(tmp_path / "labels")
    actions = small.actions.copy()
    actions[0] = Action.DROP
    publish_overlay(other, actions, 0)
    found = diff(small, other).artifacts[-1]
    assert found.state == "differs" and found.differing == ["part-00000"]


def test_flatten() -> None:
    value = {"steps": [{"eps": 0.1, "of": [1, 2]}, {}], "kind": None, "name": "x"}
    assert flatten(value) == {"steps.0.eps": 0.1, "steps.0.of": [1, 2], "kind": None, "name": "x"}


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no label store"):
        state_of(tmp_path)


def test_shards_that_both_stores_lack_are_told(small: SmallStore, own: SmallStore) -> None:
    assert diff(small, small).missing == []
    entries.withdraw(own.layout, "soft", "part-00000")
    found = diff(own, own)
    assert found.is_same
    told = "soft/part-00000: shard 0 of 2 is missing: stage compress is not finished; run `ferkd-"
    assert len(found.missing) == 1 and found.missing[0].startswith(f"{own.root}: {told}")

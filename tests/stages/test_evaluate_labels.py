"""Several labels an image: what fits, and one clear line for what does not."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluate.core import IMAGENET_CLASSES, match_labels
from store.errors import DataError

C = IMAGENET_CLASSES
WNIDS = tuple(f"n{number:08d}" for number in range(C))
NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, C + 1)]
PATHS = [f"{wnid}/{name}" for wnid, name in zip(WNIDS, NAMES, strict=True)]
IDS = list(range(C))
ENTRIES = [[number] for number in IDS]


def from_list(
    entries: Any = ENTRIES,
    paths: list[str] = PATHS,
    ids: list[int] = IDS,
    classes: tuple[str, ...] = WNIDS,
) -> tuple[tuple[int, ...], ...]:
    return match_labels(entries, paths, ids, classes, "real.json")


def changed(place: int, entry: object) -> list[object]:
    return [*ENTRIES[:place], entry, *ENTRIES[place + 1 :]]


def test_a_list_goes_by_the_number_in_the_name() -> None:
    """Files sorted by class folder are in another order than the list."""
    order = random.Random(0).sample(range(C), C)
    paths = [f"{WNIDS[place]}/{NAMES[number]}" for place, number in enumerate(order)]
    entries = [[] if number % 7 == 0 else [order.index(number), 5] for number in range(C)]
    entries[order[5]] = [5]
    found = from_list(entries, paths)
    assert found == tuple(tuple(entries[number]) for number in order)


@pytest.mark.parametrize(
    "name", ["ILSVRC2012_val_%08d_n01751748.JPEG", "%d.png", "resized_%08d.jpeg", "v2_%05d.JPEG"]
)
def test_names_of_other_packings_have_numbers_too(name: str) -> None:
    paths = [f"{wnid}/{name % number}" for number, wnid in enumerate(WNIDS, start=1)]
    assert from_list(paths=paths) == tuple((number,) for number in IDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entries": ENTRIES[:-1]}, r"has 999 entries, but the folder holds 1,000 images"),
        ({"entries": [*ENTRIES, []]}, r"has 1,001 entries, but the folder holds 1,000 images"),
        ({"entries": changed(16, 5)}, r"entry 16 \(n00000016/ILSVRC2012_val_00000017.JPEG\) is 5"),
        ({"entries": changed(0, [1000])}, r"entry 0 .* has the label 1000, allowed: .* 0 to 999"),
        ({"entries": changed(999, [-1])}, r"entry 999 .* has the label -1"),
        ({"entries": changed(3, [3, True])}, r"entry 3 .* has the label True"),
        ({"entries": changed(3, [3.0])}, r"entry 3 .* has the label 3\.0"),
        ({"entries": changed(3, ["x" * 99])}, r"entry 3 .* has the label text, allowed"),
        ({"entries": changed(3, [3, 3])}, r"entry 3 .* a label twice: \[3, 3\]"),
        ({"entries": changed(3, None)}, r"entry 3 .* is None, needed: a list"),
        ({"entries": "3"}, r"^real\.json: holds '3', needed: a list with a list of class numbers"),
        ({"classes": WNIDS[:10]}, r"ImageNet's 1000 classes, but the training has 10;"),
        ({"classes": WNIDS[::-1]}, r"stand in another \(first n00000999\)"),
        ({"ids": [0, 0, *IDS[2:]]}, r"no images of 1 classes, such as n00000001"),
        ({"paths": ["n/x.JPEG", *PATHS[1:]]}, r"^n/x\.JPEG: the name has no number from 1 to 1000"),
        ({"paths": ["n/x0.JPEG", *PATHS[1:]]}, r"^n/x0\.JPEG: the name has no number from 1"),
        ({"paths": ["n/1001.png", *PATHS[1:]]}, r"^n/1001\.png: the name has no number from 1"),
        ({"paths": [*PATHS[:1], "n/1.png", *PATHS[2:]]}, r"^n/1\.png: n0.*1.JPEG has the number 1"),
        ({"entries": [ENTRIES[-1], *ENTRIES[:-1]]}, r"only 0 of 1,000 images have the class of"),
    ],
)
def test_what_is_wrong_with_a_list_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        from_list(**arguments)
    assert "real.json" in str(caught.value) or "number" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_of_the_folders_may_be_wrong() -> None:
    moved = [*range(C // 2), *((number + 1) % C for number in range(C // 2, C))]
    found = from_list([[number] for number in moved])
    assert found[-1] == (0,)
    empty: list[list[int]] = [[] for _ in IDS]
    assert from_list(empty) == ((),) * C


SMALL = ["a/x.jpg", "a/y.jpg", "b/x.jpg", "b/z.jpg"]


def from_mapping(value: object, paths: list[str] = SMALL) -> tuple[tuple[int, ...], ...]:
    return match_labels(value, paths, [0, 0, 1, 1], ("a", "b", "c"), "own.json")


def test_a_mapping_goes_by_file_name() -> None:
    entries = {"z.jpg": [2, 1], "b/x.jpg": [], "a/x.jpg": [0], "y.jpg": [0, 1, 2]}
    assert from_mapping(entries) == ((0,), (0, 1, 2), (), (2, 1))


WHOLE: dict[str, Any] = {"a/x.jpg": [0], "a/y.jpg": [0], "b/x.jpg": [1], "b/z.jpg": [1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x.jpg": [0]}, r"x\.jpg: both a/x\.jpg and b/x\.jpg have this name"),
        ({"q.jpg": [0]}, r"q\.jpg: the folder has no image of this name"),
        ({"z.jpg": [0]}, r"z\.jpg: this image has another entry too"),
        ({"a/y.jpg": [3]}, r"a/y\.jpg has the label 3, allowed: whole numbers from 0 to 2"),
        ({"a/y.jpg": 1}, r"a/y\.jpg is 1, needed: a list"),
        ({"a/y.jpg": [1, 1]}, r"a/y\.jpg has a label twice"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^own\.json: {message}"):
        from_mapping({**WHOLE, **change})


def test_an_image_without_an_entry_is_named() -> None:
    with pytest.raises(DataError, match=r"^own\.json: has no entry for b/x\.jpg"):
        from_mapping({name: each for name, each in WHOLE.items() if name != "b/x.jpg"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_taken_or_refused_in_one_line(value: object) -> None:
    for paths in (SMALL, ["a/0"], []):
        try:
            found = match_labels(value, paths, [0, 0, 1, 1][: len(paths)], ("a", "b"), "own.json")
        except DataError as error:
            assert str(error).startswith("own.json: ")
            assert str(error).isprintable()
        else:
            assert (found, value) == ((), {})

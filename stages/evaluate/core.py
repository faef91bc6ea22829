"""Several labels an image: what a JSON file says, matched to the images of a set.

ImageNet-ReaL (Beyer et al., Are we done with ImageNet?, 2020) is a list of 50,000 lists of class
numbers: entry i belongs to ILSVRC2012_val_%08d.JPEG with the number i + 1.

Legend: N images, C classes of the training.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from store.errors import DataError

IMAGENET_CLASSES = 1000
MIN_AGREEMENT = 0.5
"""Share of images whose folder's class must be among their labels. Of ImageNet-ReaL it is nine in
ten; where classes stand in another order it is hardly any."""

Labels = tuple[int, ...]

_IMAGENET_NAME = re.compile(r"ILSVRC2012_val_([0-9]{8})")
_LAST_NUMBER = re.compile(r"([0-9]{1,9})$")


def match_labels(
    value: object,
    paths: Sequence[str],
    class_ids: Sequence[int],
    class_names: Sequence[str],
    source: str,
) -> tuple[Labels, ...]:
    """Return the labels of each image, (N,); empty where nobody could tell.

    Args:
        value: what the JSON file holds: ImageNet-ReaL's list, or a mapping from file names, alone
            or with their class folders, to lists of class numbers.
        paths: (N,) CLASS/IMAGE.
        class_ids: (N,) class of each image's folder.
        class_names: (C,) names of the training's classes.
        source: name of the file, for errors.

    Raises:
        DataError: the file's shape is another, it does not fit the images, or a class number is
            none of the training.
    """
    if isinstance(value, list):
        _check_imagenet(class_ids, class_names, source)
        labels = _from_list(value, paths, source)
        _check_agreement(labels, class_ids, source)
        return labels
    if isinstance(value, dict):
        return _from_mapping(value, paths, len(class_names), source)
    raise DataError(
        f"{source}: holds {_shown(value)}, needed: a list with a list of class numbers for each "
        "image, or a mapping from file names to such lists"
    )


def _check_imagenet(class_ids: Sequence[int], class_names: Sequence[str], source: str) -> None:
    """Whether the classes can be ImageNet's, which the numbers of a list stand for."""
    num_classes = len(class_names)
    advice = "give a mapping from file names to class numbers for other classes"
    if num_classes != IMAGENET_CLASSES:
        raise DataError(
            f"{source}: a list stands for ImageNet's {IMAGENET_CLASSES} classes, but the training "
            f"has {num_classes}; {advice}"
        )
    if list(class_names) != sorted(class_names):
        raise DataError(
            f"{source}: a list numbers ImageNet's classes in the order of their names, but the "
            f"training's stand in another (first {class_names[0]}); {advice}"
        )
    missing = set(range(num_classes)) - set(class_ids)
    if missing:
        raise DataError(
            f"{source}: a list stands for the whole validation set of ImageNet, but the folder has "
            f"no images of {len(missing)} classes, such as {class_names[min(missing)]}; {advice}"
        )


def _from_list(entries: list[object], paths: Sequence[str], source: str) -> tuple[Labels, ...]:
    names = [PurePosixPath(path).name for path in paths]
    if len(entries) != len(paths):
        raise DataError(
            f"{source}: has {len(entries):,} entries, but the folder holds {len(paths):,} images; "
            "needed: one for each image of the whole validation set"
        )
    places: dict[int, str] = {}
    for path, name in zip(paths, names, strict=True):
        number = _number(name)
        if number is None or not 1 <= number <= len(entries):
            raise DataError(
                f"{path}: the name has no number from 1 to {len(entries)}, by which {source} "
                "names images; needed: names such as ILSVRC2012_val_00000001.JPEG"
            )
        if number in places:
            raise DataError(f"{path}: {places[number]} has the number {number} too; remove one")
        places[number] = path
    checked = {
        number: _checked(
            entry, f"{source}: entry {number - 1} ({places[number]})", IMAGENET_CLASSES
        )
        for number, entry in enumerate(entries, start=1)
    }
    return tuple(checked[number] for number in map(_number, names) if number is not None)


def _number(name: str) -> int | None:
    """Number of an image: ImageNet's, else the one that the name ends with."""
    found = _IMAGENET_NAME.search(name) or _LAST_NUMBER.search(PurePosixPath(name).stem)
    return None if found is None else int(found[1])


def _check_agreement(labels: Sequence[Labels], class_ids: Sequence[int], source: str) -> None:
    hits = [own in each for own, each in zip(class_ids, labels, strict=True) if each]
    if sum(hits) < MIN_AGREEMENT * len(hits):
        raise DataError(
            f"{source}: only {sum(hits):,} of {len(hits):,} images have the class of their folder "
            "among their labels; the numbers count ImageNet's classes in the order of their "
            "WordNet ids (n01440764 is 0), so class folders must be named by these"
        )


def _from_mapping(
    entries: dict[str, object], paths: Sequence[str], num_classes: int, source: str
) -> tuple[Labels, ...]:
    places: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        for name in (path, PurePosixPath(path).name):
            places.setdefault(name, []).append(place)
    labels: dict[int, Labels] = {}
    for name, entry in entries.items():
        found = places.get(name, [])
        where = f"{source}: {name if name.isprintable() else repr(name)}"
        if len(found) != 1:
            raise DataError(f"{where}: {_which(found, paths)}")
        if found[0] in labels:
            raise DataError(f"{where}: this image has another entry too; remove one")
        labels[found[0]] = _checked(entry, where, num_classes)
    for place, path in enumerate(paths):
        if place not in labels:
            raise DataError(f"{source}: has no entry for {path}; an empty list leaves an image out")
    return tuple(labels[place] for place in range(len(paths)))


def _which(found: Sequence[int], paths: Sequence[str]) -> str:
    if not found:
        return "the folder has no image of this name; remove the entry"
    return (
        f"both {paths[found[0]]} and {paths[found[1]]} have this name; name images with their "
        "class folders"
    )


def _checked(entry: object, where: str, num_classes: int) -> Labels:
    if not isinstance(entry, list):
        raise DataError(f"{where} is {_shown(entry)}, needed: a list of class numbers")
    for label in entry:
        if type(label) is not int or not 0 <= label < num_classes:  # true is an int too
            raise DataError(
                f"{where} has the label {_shown(label)}, allowed: whole numbers from 0 to "
                f"{num_classes - 1}"
            )
    if len(set(entry)) < len(entry):
        raise DataError(f"{where} has a label twice: {_shown(entry)}; needed: each once")
    return tuple(entry)


def _shown(value: object) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", type(None): "null"}
    text = repr(value)
    return text if len(text) <= 60 else kinds.get(type(value), text[:57] + "...")

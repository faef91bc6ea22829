"""Sets of images to measure accuracy on, read from folders of class folders.

Legend: N images, C classes of the training.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.shared.images import find_classes, find_images
from store.errors import DataError

_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Images with their classes in the order of training."""

    name: str
    """As reports call it: val, test."""
    paths: tuple[str, ...]
    """Files, sorted."""
    class_ids: tuple[int, ...]
    """Of each file, the class of its folder."""
    num_classes: int
    """C of the training, also where the folder holds fewer."""
    labels: tuple[tuple[int, ...], ...] | None = None
    """Of each file, the classes that are right, at least one; none: the class of its folder."""


def read_class_folder(
    name: str, folder: Path, class_names: Sequence[str], *, numbers: bool = False
) -> EvaluationSet:
    """List the images of a folder of class folders, matched to the training classes.

    A training class without a folder is allowed: sets may cover fewer classes.

    Args:
        name: what reports call the set.
        folder: holds CLASS/IMAGE.
        class_names: name of class c of the training at place c.
        numbers: whether class folders are named by c itself instead of by its name.

    Raises:
        DataError: no such folder, a class folder that training does not know or that is empty, two
            folders of one class, or an image file that cannot be one.
    """
    match = _by_number if numbers else _by_name
    ids = match(folder, find_classes(folder), class_names)
    images = find_images(folder)
    if images.rejects:
        reject = images.rejects[0]
        raise DataError(f"{folder / reject.path}: {reject.reason}; repair or remove it")
    return EvaluationSet(
        name=name,
        paths=tuple(str(folder / path) for path in images.paths),
        class_ids=tuple(ids[path.split("/", 1)[0]] for path in images.paths),
        num_classes=len(class_names),
    )


def is_numbered(folder: Path, class_names: Sequence[str]) -> bool:
    """Return whether class folders can only be meant by number: no name fits, all numbers do.

    Raises:
        DataError: the folder is missing or has no class folders.
    """
    found = find_classes(folder)
    if set(found) & set(class_names):
        return False
    return all(_class_number(name, len(class_names)) is not None for name in found)


def _class_number(name: str, num_classes: int) -> int | None:
    if not _NUMBER.fullmatch(name) or int(name) >= num_classes:
        return None
    return int(name)


def _by_name(folder: Path, found: Sequence[str], class_names: Sequence[str]) -> dict[str, int]:
    numbers = {class_name: class_id for class_id, class_name in enumerate(class_names)}
    for name in found:
        if name not in numbers:
            raise DataError(
                f"{folder / name}: training knows no class of this name (it has {len(numbers)}, "
                f"such as {', '.join(class_names[:3])}); rename or remove the folder"
            )
    return numbers


def _by_number(folder: Path, found: Sequence[str], class_names: Sequence[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    folders: dict[int, str] = {}
    for name in found:
        number = _class_number(name, len(class_names))
        if number is None:
            raise DataError(
                f"{folder / name}: not the number of a class of the training, allowed: 0 to "
                f"{len(class_names) - 1}; rename or remove the folder"
            )
        if number in folders:
            raise DataError(
                f"{folder / name}: class {number} has the folder {folders[number]} too; put its "
                "images into one of them"
            )
        ids[name], folders[number] = number, name
    return ids

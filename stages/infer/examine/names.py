"""Class folders named by WordNet ids, beside the order that ImageNet classifiers count them in."""

import re
from collections.abc import Sequence

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from stages.infer.config import Member

IMAGENET = "imagenet-1k"

_WORDNET_ID = re.compile(r"n[0-9]{8}")


def are_wordnet_ids(names: Sequence[str]) -> bool:
    """Whether all class folders are named as ImageNet's are."""
    return all(_WORDNET_ID.fullmatch(name) for name in names)


def order_problem(member: Member, names: Sequence[str]) -> str | None:
    """Why the library's pretrained classifier counts other classes than ``names``, or None.

    Known of pretrained models of timm and torchvision, and only of folders with WordNet ids.
    """
    if not member.pretrained or not are_wordnet_ids(names):
        return None
    subset = infer_imagenet_subset({"num_classes": len(names)})
    if subset is None:
        return None
    theirs = _classes_of(subset)
    place = next((c for c, (a, b) in enumerate(zip(theirs, names, strict=True)) if a != b), None)
    if place is None:
        return None
    extra = sorted(set(names) - set(theirs))
    what = f"; {extra[0]} is no class of {subset}" if extra else ""
    return (
        f"class {place} of {member.name} is {theirs[place]}, that of the folders is "
        f"{names[place]}{what}"
    )


def subset_hint(names: Sequence[str]) -> str | None:
    """That the folders are some of ImageNet's classes, where they are; said where numbers differ.

    A classifier of all 1000 can be cut down to them.
    """
    if not are_wordnet_ids(names):
        return None
    theirs = set(_classes_of(IMAGENET))
    if not set(names) < theirs:
        return None
    return (
        f"the folders are {len(names)} of ImageNet's {len(theirs):,} classes: docs/teachers.md "
        "shows how to keep only their rows of the classifier"
    )


def _classes_of(subset: str) -> list[str]:
    """WordNet ids of a set of ImageNet's classes, in the order that classifiers count them."""
    info = ImageNetInfo(subset)
    names: list[str] = info.label_names()  # type: ignore[no-untyped-call]
    return names

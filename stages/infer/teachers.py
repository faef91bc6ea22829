"""The teacher, or the several whose answers are averaged: built, checked, and put in an order.

Shapes: B crops of a forward, C classes (or outputs of a projection head), E teachers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.infer.config import Config, Member
from stages.shared.contract import Json
from stages.shared.model_card import find_card
from stages.shared.models import Model, build
from store.digest import canonical_json, sha256_json
from store.errors import DataError, ParamsError


class Classes(Protocol):
    """What teachers must tell apart: a table of images says it, or a list of names."""

    @property
    def num_classes(self) -> int:
        """C."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of class c at place c."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """One of the networks that label the crops."""

    key: str
    """Its place in params.yaml, such as infer.teacher[1]."""
    name: str
    """In timm."""
    model_kwargs: dict[str, Any]
    model: Model
    share: float
    """Of the average; the shares of all teachers sum to 1."""

    def pixels(self) -> dict[str, Json]:
        """How its pixels are made, as lineages say it."""
        spec = self.model.spec
        return {
            "size": list(spec.size),
            "interpolation": spec.interpolation,
            "mean": list(spec.mean),
            "std": list(spec.std),
        }

    def identity(self) -> dict[str, Json]:
        """What its answers depend on."""
        return {
            "weights": self.model.digest,
            "name": self.name,
            "model_kwargs": self.model_kwargs,
            "pixels": self.pixels(),
        }


def load(config: Config, num_outputs: int, table: Classes, listed: Path) -> tuple[Teacher, ...]:
    """Build the teachers, on the CPU, sorted by the digest of their weights.

    Teachers that are the same network count as one of their shares' sum, so two equal ones are one
    and the order in params.yaml has no part in any bit. ``listed`` is the file of ``table``.

    Raises:
        ParamsError: no such teacher, or one of random weights.
        DataError: weights are missing, or a teacher has other classes than the images.
    """
    members = config.members
    is_one = isinstance(config.teacher, Member)
    keys = ["infer.teacher"] if is_one else [f"infer.teacher[{i}]" for i in range(len(members))]
    for key, member in zip(keys, members, strict=True):
        _refuse_random_weights(key, member)
    found: dict[bytes, list[Teacher]] = {}
    for key, member in zip(keys, members, strict=True):
        built = _build(config, key, member, num_outputs)
        if config.outputs == "classes":
            _check_class_names(member, table, listed)
        teacher = Teacher(key, member.name, member.model_kwargs, built, member.share)
        found.setdefault(canonical_json(teacher.identity()), []).append(teacher)
    # Of decimals as people write them: rounded once, at the end, no order can change a share.
    total = _sum(member.share for member in members)
    merged = [
        (identity, replace(equal[0], share=float(_sum(each.share for each in equal) / total)))
        for identity, equal in found.items()
    ]
    merged.sort(key=lambda item: (item[1].model.digest, item[0]))
    return tuple(teacher for _, teacher in merged)


def lineage(config: Config, teachers: Sequence[Teacher]) -> dict[str, Json]:
    """What the key says of the teachers; of one, what it said before there were ensembles."""
    if len(teachers) == 1:
        return {"teacher": teachers[0].model.digest, "pixels": teachers[0].pixels()}
    members: list[Json] = [{**each.identity(), "share": each.share} for each in teachers]
    ensemble: dict[str, Json] = {"average": config.average, "members": members}
    return {"teacher": sha256_json(ensemble), "ensemble": ensemble}


def averaged(config: Config, teachers: Sequence[Teacher], logits: Sequence[Tensor]) -> Tensor:
    """Logits (B, C) float32 of the average of E teachers' (B, C); of one, its own.

    Averaged probabilities p stand as log p, whose softmax they are.
    """
    if len(logits) == 1:
        return logits[0].float()
    shares = torch.tensor([teacher.share for teacher in teachers])
    shares = shares.to(logits[0].device, non_blocking=True)  # else a GPU would be waited for
    stacked = torch.stack([each.float() for each in logits])
    if config.average == "logits":
        return (stacked * shares[:, None, None]).sum(dim=0)
    weighted = torch.log_softmax(stacked, dim=2) + shares.log()[:, None, None]
    return torch.logsumexp(weighted, dim=0)


def _sum(shares: Iterable[float]) -> Fraction:
    return sum((Fraction(str(share)) for share in shares), start=Fraction())


def _build(config: Config, key: str, member: Member, num_outputs: int) -> Model:
    try:
        return build(member, num_outputs)
    except ParamsError as error:
        raise ParamsError(f"{key}.{error}") from error
    except DataError as error:
        if config.outputs == "projection":
            hint = f"outputs count as classes here, and infer.num_outputs is {num_outputs}"
            raise DataError(f"{error}; {hint}") from error
        if isinstance(config.teacher, Member):
            raise
        raise DataError(f"{key} ({member.name}): {error}") from error


def _refuse_random_weights(key: str, member: Member) -> None:
    """A teacher that is drawn anew in every process has nothing to say, and no two keys alike."""
    if not member.pretrained and member.weights is None:
        raise ParamsError(
            f"{key}: {member.name} has neither weights nor pretrained: true, so its weights would "
            "be random; give one of them"
        )
    if member.new_classifier:
        raise ParamsError(
            f"{key}.new_classifier: a new classifier knows nothing; use a teacher of the images' "
            "classes"
        )


def _check_class_names(member: Member, table: Classes, listed: Path) -> None:
    """Class c of a teacher that this tool trained must be class c of the images."""
    path = member.weights
    card = None if path is None else find_card(Path(path))
    if card is None or card.classes == table.class_names:
        return
    if len(card.classes) != table.num_classes:
        raise DataError(
            f"{path}: its card lists {len(card.classes)} classes, {listed} has "
            f"{table.num_classes}; train the teacher on these: `ferkd-pipeline stage teacher`"
        )
    pairs = zip(card.classes, table.class_names, strict=True)
    place, (its, ours) = next((c, pair) for c, pair in enumerate(pairs) if pair[0] != pair[1])
    raise DataError(
        f"{path}: its class {place} is {its!r}, that of {listed} is {ours!r}; train the teacher "
        "on these images: `ferkd-pipeline stage teacher`"
    )

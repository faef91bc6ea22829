"""What is kept of a teacher's output, as tensors and arrays.

Shapes: B crops of a forward, C classes, R ranked classes, T temperatures, N images, M crops.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from stages.infer.config import Config
from stages.infer.mixed import Mixed
from stages.shared.contract import Json
from store.arrays import ArraySpec, class_dtype, reject_value
from store.batch import RecordedOps
from store.images import ImageTable

Arrays = dict[str, NDArray[Any]]

IDENTITY = ("image_id", "crop_key")
"""Arrays that say whose a row is; the others hold what a teacher said."""

_FLOAT16_LOWEST = -65504.0
_LARGE = 1024.0
"""Logits above it leave float32 too few bits for the differences that probabilities are made of."""
_OP_PAIR = np.dtype([("code", "<i4"), ("level", "<f4")])
_MIX = np.dtype(
    [
        ("partner", "<u8"),
        ("box", "<i4", 4),
        ("flip", "<i4"),
        ("mix", "<i4"),
        ("share", "<f4"),
        ("cut", "<i4", 4),
    ]
)
"""52 bytes: with any number of pairs of 8 no sum of them, so no two spellings are alike."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Which arrays a predictions part has, and their types."""

    num_crops: int
    num_classes: int
    num_ranked: int
    """R, places of ``topk_class``; fewer than asked for where there are fewer classes."""
    is_dense: bool
    """Whether ``logp`` holds every class, instead of ``topk_logp`` the first R."""
    temperatures: tuple[float, ...]

    MARK: ClassVar[str] = "logsumexp"
    """Array that is NaN for images that could not be used."""

    @classmethod
    def of(cls, config: Config, num_crops: int, num_classes: int) -> "Kept":
        """Resolve ``keep: auto``."""
        dense = config.keep == "dense" or (
            config.keep == "auto" and num_classes <= 2 * config.top_r
        )
        ranked = min(config.top_r, num_classes)
        return cls(num_crops, num_classes, ranked, dense, config.temperatures)

    def specs(self) -> dict[str, ArraySpec]:
        """Arrays of the part by name; the first axis of each is the images."""
        crops = self.num_crops
        width, axis = (self.num_classes, "class") if self.is_dense else (self.num_ranked, "rank")
        classes = class_dtype(self.num_classes)
        return {
            "image_id": ArraySpec("int32"),
            "crop_key": ArraySpec("uint64", (crops,), ("crop",)),
            "topk_class": ArraySpec(classes, (crops, self.num_ranked), ("crop", "rank")),
            self.logp_name: ArraySpec("float16", (crops, width), ("crop", axis)),
            "target_logp": ArraySpec("float16", (crops,), ("crop",)),
            "logsumexp": ArraySpec(
                "float32", (crops, len(self.temperatures)), ("crop", "temperature")
            ),
        }

    @property
    def logp_name(self) -> str:
        """``logp`` or ``topk_logp``."""
        return "logp" if self.is_dense else "topk_logp"

    @property
    def num_outputs(self) -> int:
        """What a teacher must give of a crop."""
        return self.num_classes

    def attributes(self) -> dict[str, Json]:
        """What a reader of the part must know."""
        return {
            "num_crops": self.num_crops,
            "num_classes": self.num_classes,
            "num_ranked": self.num_ranked,
            "arrays": [*sorted(self.specs())],
            "temperatures": [*self.temperatures],
        }

    def lineage(self) -> dict[str, Json]:
        """What of it is part of the key."""
        return {
            "num_classes": self.num_classes,
            "num_ranked": self.num_ranked,
            "is_dense": self.is_dense,
        }

    def values(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """See `kept_values`."""
        return kept_values(self, logits, targets)

    def rejected(self, num_images: int) -> Arrays:
        """Rows of images that could not be used, to be overwritten by the others."""
        return rejected_rows(self.specs(), num_images)


def rejected_rows(specs: Mapping[str, ArraySpec], num_images: int) -> Arrays:
    """Rows of ``num_images`` images that could not be used, of each array."""
    return {
        name: np.full((num_images, *spec.trailing), reject_value(spec.dtype), spec.dtype)
        for name, spec in specs.items()
    }


def kept_values(kept: Kept, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """What is kept of ``logits`` (B, C) of crops whose ground truth is ``targets`` (B,).

    ``logp`` is z - logsumexp(z) in float32, rounded to float16; ``logsumexp`` is that of z / T for
    each temperature. Classes are ranked by the unrounded logit, ties by the lower class id. Where
    the largest logit is beyond 1024 or -1024, z counts from it, which no probability sees.
    """
    z = logits.float()
    largest = z.amax(dim=1, keepdim=True)
    z = z - torch.where(largest.abs() > _LARGE, largest, 0.0)
    logsumexp = torch.stack([torch.logsumexp(z / t, dim=1) for t in kept.temperatures], dim=1)
    one = kept.temperatures.index(1.0)
    logp = (z - logsumexp[:, one : one + 1]).clamp(_FLOAT16_LOWEST, 0.0)
    order = torch.sort(logits.float(), dim=1, descending=True, stable=True).indices[
        :, : kept.num_ranked
    ]
    return {
        "topk_class": order,
        kept.logp_name: (logp if kept.is_dense else logp.gather(1, order)).half(),
        "target_logp": logp.gather(1, targets[:, None])[:, 0].half(),
        "logsumexp": logsumexp,
    }


def crop_keys(
    images: ImageTable,
    boxes: NDArray[np.int32],
    flips: NDArray[np.bool_],
    ops: RecordedOps | None = None,
    mixed: Mixed | None = None,
) -> NDArray[np.uint64]:
    """Name of each crop by what it shows: path, bytes of the file, class, box, flip, operations and
    what it is mixed with.

    Returns (N, M). A row of an earlier part with the same name holds the same prediction of the
    same teacher.
    """
    num_images, num_crops = flips.shape
    packed = np.concatenate([boxes, flips[..., None].astype(np.int32)], axis=2).astype("<i4")
    rows = packed.reshape(-1, 5).tobytes()
    done = [b""] * (num_images * num_crops) if ops is None else _spelled(ops)
    if mixed is not None:
        done = [one + other for one, other in zip(done, _spelled_mix(mixed), strict=True)]
    keys = np.empty(num_images * num_crops, np.uint64)
    for i in range(num_images):
        name = f"{images.paths[i]}\0{images.content_hashes[i]}\0{images.class_ids[i]}"
        seed = xxhash.xxh3_64_intdigest(name.encode())
        for row in range(i * num_crops, (i + 1) * num_crops):
            keys[row] = xxhash.xxh3_64_intdigest(rows[row * 20 : row * 20 + 20] + done[row], seed)
    return keys.reshape(num_images, num_crops)


def _spelled(ops: RecordedOps) -> list[bytes]:
    """The operations of each crop, those that do nothing left out, as (int32, float32) pairs."""
    pairs = np.empty((ops.codes.size // ops.codes.shape[-1], ops.codes.shape[-1]), _OP_PAIR)
    pairs["code"] = ops.codes.reshape(pairs.shape)
    pairs["level"] = ops.levels.reshape(pairs.shape)
    return [row[row["code"] != 0].tobytes() for row in pairs]


def _spelled_mix(mixed: Mixed) -> list[bytes]:
    """What each crop is mixed with; nothing where it is not."""
    images, mix = mixed.images, mixed.mix.flat()
    partners, which = np.unique(mixed.rows.reshape(-1), return_inverse=True)
    names = np.zeros(len(partners), np.uint64)
    for place, row in enumerate(partners.tolist()):
        if row >= 0:
            name = f"{images.paths[row]}\0{images.content_hashes[row]}"
            names[place] = xxhash.xxh3_64_intdigest(name.encode())
    spelled = np.empty(mix.kinds.size, _MIX)
    values = (names[which], mix.boxes, mix.flips, mix.kinds, mix.shares, mix.cuts)
    for name, column in zip(_MIX.names or (), values, strict=True):
        spelled[name] = column
    return [row.tobytes() if row["mix"] else b"" for row in spelled]

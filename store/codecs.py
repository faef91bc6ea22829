"""How a prediction becomes a stored label, and a stored label probabilities again.

Shapes: N rows (crops), R classes predicted, K classes stored, C classes, E entries.

Kinds `full` and `logits` are dense (`store.dense_codecs`), the others sparse. With p the
probabilities at the label's temperature, most probable class first, the label is

    hard                1 at the first class
    smoothing           p_0 at the first class, the rest evenly elsewhere (FKD)
    marginal_smoothing  p_k at the top K, r = max(0, 1 - sum of them) / (C - K) else (FKD, Eq. 5)
    marginal_renorm     p_k / sum of the top K at the top K, 0 elsewhere (FKD)
    full                p
    logits              z itself, before any softmax: of a self-supervised teacher's projection head

Stored are rounded values (`store.precision`), made to fall with k. Rounded values need not sum to
1, so decoding settles it over the stored values: r takes what is missing; where they sum to more
than 1, or nothing else has a class (marginal_renorm, K = C, full), they are divided by their sum.

A rejected row has class ids -1 and NaN for everything else, here and when decoded.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from store.compact import round_label
from store.precision import Precision, float16, round_maximum

Kind = Literal["hard", "smoothing", "marginal_smoothing", "marginal_renorm", "full", "logits"]
Normalize = Literal["none", "l2"]

KINDS: tuple[Kind, ...] = get_args(Kind)
DENSE_KINDS = ("full", "logits")
"""Kinds that keep a value of every class, in Zarr stores."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """What kind of label is stored, and how. Raises ValueError when its parts do not fit."""

    kind: Kind
    k: int
    """Classes stored by the two marginal kinds; the others ignore it."""
    num_classes: int
    """C; of kind `logits` the number of outputs of the projection head."""
    precision: Precision = "float16"
    temperature: float = 1.0
    """What the logits were divided by before the softmax."""
    include_target: bool = False
    """Whether the target's probability is stored where it is not among the top K."""
    normalize: Normalize = "none"
    """Of kind `logits`: what was done to a crop's logits before they were stored."""

    def __post_init__(self) -> None:
        """Check every part and their combination."""
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, allowed: {', '.join(KINDS)}")
        if self.precision not in ("float16", "compact"):
            raise ValueError(f"precision is {self.precision!r}, allowed: float16, compact")
        if self.k < 1 or self.num_classes < 1:
            raise ValueError(f"k is {self.k} of {self.num_classes} classes, allowed: at least 1")
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature is {self.temperature}, allowed: above 0")
        if self.is_dense and self.precision != "float16":
            raise ValueError(
                f"precision is {self.precision!r}, allowed with kind {self.kind}: float16"
            )
        if self.include_target and (self.is_dense or self.kind == "hard"):
            raise ValueError(f"include_target is true, allowed with kind {self.kind}: false")
        if self.normalize not in get_args(Normalize):
            raise ValueError(f"normalize is {self.normalize!r}, allowed: none, l2")
        if self.kind != "logits" and self.normalize != "none":
            raise ValueError(f"normalize is l2, allowed with kind {self.kind}: none")
        if self.kind == "logits" and self.temperature != 1:
            raise ValueError(
                f"temperature is {self.temperature}, allowed with kind logits: 1 (training has one)"
            )

    def __str__(self) -> str:
        """As messages say it: the kind and what it depends on."""
        parts = [f"k = {self.k}"] if self.kind.startswith("marginal") else []
        parts += [self.precision, f"temperature {self.temperature:g}"]
        parts += ["with the target's"] if self.include_target else []
        return f"{self.kind}, {', '.join(parts)}"

    @property
    def is_dense(self) -> bool:
        """Whether a row stores a value of every class."""
        return self.kind in DENSE_KINDS

    @property
    def num_stored(self) -> int:
        """K: how many classes a row stores. At most C."""
        if self.is_dense:
            return self.num_classes
        return min(self.k, self.num_classes) if self.kind.startswith("marginal") else 1

    @property
    def max_is_prob_0(self) -> bool:
        """Whether prob_0 is the rounded maximum at T=1, so that no column of its own is needed."""
        return self.kind in ("smoothing", "marginal_smoothing") and self.temperature == 1


@dataclass(frozen=True, slots=True)
class SparseLabels:
    """Stored labels of a sparse kind."""

    class_ids: I32
    """(N, K) most probable first; -1 in rejected rows."""
    probs: F32
    """(N, K) falling, on the precision's grids; NaN in rejected rows."""
    target_prob: F32 | None = None
    """(N,) with `include_target`: the target's probability where it is not among `class_ids`, at
    the label's temperature and on the grid of the other probabilities; NaN where it is."""

    def rows(self, keep: NDArray[np.bool_]) -> "SparseLabels":
        """Return those of the rows (N,) that are kept."""
        outside = None if self.target_prob is None else self.target_prob[keep]
        return SparseLabels(self.class_ids[keep], self.probs[keep], outside)


def encode(
    spec: LabelSpec, class_ids: I32, probs: F64, target: NDArray[np.integer], target_prob: ArrayLike
) -> SparseLabels:
    """Return the stored form of predictions, for every sparse kind.

    Args:
        spec: what to store.
        class_ids: (N, R) ordered by unrounded logit, ties by lower class id; R >= K. -1 in
            rejected rows.
        probs: (N, R) their probabilities at the spec's temperature; NaN in rejected rows.
        target: (N,) ground-truth class ids.
        target_prob: (N,) the targets' probabilities at the spec's temperature; read only with
            `include_target`.
    """
    assert not spec.is_dense, f"kind {spec.kind} has no sparse form"
    num_stored = spec.num_stored
    assert class_ids.shape[1] >= num_stored, "fewer predictions than classes to store"
    ids = np.ascontiguousarray(class_ids[:, :num_stored], dtype=np.int32)
    rejected = ids[:, 0] < 0
    kept = np.array(probs[:, :num_stored], dtype=np.float64)
    outside = None
    if spec.include_target:
        inside = (ids == np.asarray(target)[:, None]).any(axis=1) | rejected
        outside = np.where(inside, 0.0, np.asarray(target_prob, dtype=np.float64))
    if spec.kind == "hard":
        kept[:] = 1.0
    if spec.kind == "marginal_renorm":
        total = kept.sum(axis=1) + (0.0 if outside is None else outside)
        kept /= total[:, None]
        outside = None if outside is None else outside / total
    stored, outside_prob = _round(spec, kept, outside)
    stored[rejected] = np.nan
    if outside_prob is not None:
        outside_prob[inside] = np.nan
    return SparseLabels(ids, stored, outside_prob)


def _round(spec: LabelSpec, kept: F64, outside: F64 | None) -> tuple[F32, F32 | None]:
    """Round (N, K) probabilities and, with `include_target`, the (N,) of targets outside them."""
    together = kept if outside is None else np.column_stack([kept, outside])
    has_tail = spec.kind.endswith("smoothing") and spec.num_stored < spec.num_classes
    if spec.kind == "hard":
        stored = kept.astype(np.float32)
    elif spec.precision == "float16":
        num_named = np.full(len(kept), spec.num_stored)
        if outside is not None:
            num_named += outside > 0  # else the target is among the ranks
        stored = _round_float16(together, spec.num_classes, num_named, has_tail=has_tail)
    else:
        stored = round_label(
            together, spec.num_classes, has_tail=has_tail, has_outside=outside is not None
        )
    if outside is None:
        return stored, None
    return np.ascontiguousarray(stored[:, :-1]), stored[:, -1].copy()


def _round_float16(
    probs: F64, num_classes: int, num_named: NDArray[np.intp], *, has_tail: bool
) -> F32:
    """Round to the nearest float16, falling with k; up, where others would come to have most.

    ``num_named`` (N,) are the classes of each row whose probability is stored.
    """
    stored = float16(probs)
    stored[:, 0] = round_maximum(probs[:, 0], "float16", num_classes)
    np.minimum.accumulate(stored, axis=1, out=stored)
    if has_tail:
        num_free = num_classes - num_named
        rest = (1.0 - stored.astype(np.float64).sum(axis=1)) / np.maximum(num_free, 1)
        low = np.flatnonzero((rest > stored[:, 0]) & (num_free > 0))
        raised = np.nextafter(stored[low].astype(np.float16), np.float16(1)).astype(np.float32)
        stored[low, 1:] = np.minimum(raised, stored[low, :1])[:, 1:]
    return stored


def tail(spec: LabelSpec, labels: SparseLabels) -> F32:
    """Return r, (N,): the decoded probability of each class that has no stored one."""
    return _decode(spec, labels)[2].astype(np.float32)


def to_dense(spec: LabelSpec, labels: SparseLabels, target: NDArray[np.integer]) -> F64:
    """Return the labels as (N, C) probabilities that sum to 1; `target` is (N,) class ids."""
    probs, outside, rest = _decode(spec, labels)
    dense = np.repeat(rest[:, None], spec.num_classes, axis=1)
    if outside is not None:
        rows = np.flatnonzero(~np.isnan(outside))
        dense[rows, np.asarray(target)[rows]] = outside[rows]
    np.put_along_axis(dense, labels.class_ids.astype(np.int64), probs, axis=1)
    return dense


def to_entries(
    spec: LabelSpec, labels: SparseLabels, target: NDArray[np.integer]
) -> tuple[I32, F32, F32]:
    """Return the labels as entries over a tail: label = tail + sum of weights at class_ids.

    E is K, or K + 1 with `include_target`: the last entry is then the target's, with weight 0
    where the target is among the top K.

    Returns:
        class_ids (N, E), weights (N, E), tail (N,).
    """
    probs, outside, rest = _decode(spec, labels)
    ids, weights = labels.class_ids, probs - rest[:, None]
    if outside is not None:
        rejected = ids[:, :1] < 0
        extra = np.where(np.isnan(outside), 0.0, outside - rest)[:, None]
        ids = np.hstack([ids, np.where(rejected, -1, np.asarray(target)[:, None])]).astype(np.int32)
        weights = np.hstack([weights, np.where(rejected, np.nan, extra)])
    return ids, weights.astype(np.float32), rest.astype(np.float32)


def _decode(spec: LabelSpec, labels: SparseLabels) -> tuple[F64, F64 | None, F64]:
    """Return decoded probabilities (N, K), of targets outside them (N,) or None, and tails (N,)."""
    probs = labels.probs.astype(np.float64)
    outside = None if labels.target_prob is None else labels.target_prob.astype(np.float64)
    total = probs.sum(axis=1)
    num_free = np.full(len(probs), spec.num_classes - spec.num_stored)
    if outside is not None:
        total += np.nan_to_num(outside, nan=0.0)
        num_free -= ~np.isnan(outside)
    if spec.kind in ("hard", "marginal_renorm"):
        num_free[:] = 0
    divisor = np.where(num_free > 0, np.maximum(total, 1.0), total)
    rest = np.where(num_free > 0, np.maximum(1.0 - total, 0.0), 0.0) / np.maximum(num_free, 1)
    rest[np.isnan(total)] = np.nan
    return probs / divisor[:, None], None if outside is None else outside / divisor, rest

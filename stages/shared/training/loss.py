"""The student's loss: on sparse labels without ever building the dense (B, C) label.

Shapes: B crops, E entries a crop, C classes. With the label t = tail + sum_e w_e onehot(k_e) and
logp = log_softmax(logits), cross-entropy is

    L = -sum_c t_c logp_c = -(sum_e w_e logp[k_e]) - tail * sum_c logp_c
    dL/dlogits = (sum_c t_c) softmax(logits) - t

The gradient's classes sum to 0 whatever the label sums to. Reference: FKD, Shen & Xing 2022, Eq. 5
(labels) and Eq. 3 (loss); temperature as Hinton et al. 2015, T^2 CE at T.

KL: L - H(t), with H(t) = -sum_c t_c log t_c a constant of the label: same gradient, 0 at equality.
MSE: mean over classes of (s_c - q_c)^2, s the logits and q = log t, both less their mean over the
classes, since a softmax does not see a constant. By Hinton et al. 2015, Eq. 4, that is twice what
T^2 KL becomes for high T.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from stages.shared.training.config import LossName
from stages.shared.training.labels import LabelTensors
from store.errors import ParamsError

_CPU_ROWS = 64
"""Rows whose gradient is made at once on a CPU: 64 x 1000 float32 stay in the second-level cache,
which saves two trips to memory (about 7 % of the whole at B=1024, C=1000)."""

_SMALLEST_PROB = 2.0**-24
"""Least float16 above 0, where logarithms of labels stop: a stored 0 was less than half of it, and
log 0 would be infinite. An online teacher's labels stop there too: same labels, same loss."""


class _SparseSoftCrossEntropy(torch.autograd.Function):
    """Rows' losses; saves log-probabilities only, one buffer as hard-label cross-entropy does."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        class_ids: torch.Tensor,
        weights: torch.Tensor,
        tail: torch.Tensor,
    ) -> torch.Tensor:
        logp = logits.log_softmax(1)
        ctx.save_for_backward(logp, class_ids, weights, tail)
        return -(weights * logp.gather(1, class_ids)).sum(1) - tail * logp.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        logp, class_ids, weights, tail = ctx.saved_tensors
        mass = (weights.sum(1) + tail * logp.shape[1]) * upstream
        grad = torch.empty_like(logp)
        rows = _CPU_ROWS if logp.device.type == "cpu" else max(1, len(logp))
        parts = (logp, grad, mass[:, None], (tail * upstream)[:, None])
        for source, out, scale, shift in zip(*(part.split(rows) for part in parts), strict=True):
            torch.exp(source, out=out).mul_(scale).sub_(shift)
        # scatter_add_ takes repeated ids: a class that stands twice gets both weights.
        return grad.scatter_add_(1, class_ids, -weights * upstream[:, None]), None, None, None


def sparse_cross_entropy(
    logits: torch.Tensor,
    class_ids: torch.Tensor,
    weights: torch.Tensor,
    tail: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Return the mean over the batch of T^2 CE(label, softmax(logits / T)), a scalar.

    ``logits`` (B, C); ``class_ids`` (B, E) int64 in [0, C), repeated ids add; ``weights`` (B, E),
    of any sign; ``tail`` (B,). Half-precision logits are raised to float32 first. No gradient
    flows to the label.
    """
    logits = _at_temperature(logits, temperature)
    weights, tail = weights.to(logits.dtype), tail.to(logits.dtype)
    rows: torch.Tensor = _SparseSoftCrossEntropy.apply(logits, class_ids, weights, tail)
    return rows.mean() * temperature**2


def dense_cross_entropy(
    logits: torch.Tensor, dense: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return what `sparse_cross_entropy` does for labels (B, C) that are dense (kind `full`)."""
    logits = _at_temperature(logits, temperature)
    return F.cross_entropy(logits, dense.to(logits.dtype)) * temperature**2


def sparse_entropy(
    class_ids: torch.Tensor, weights: torch.Tensor, tail: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """Return -sum_c t_c log t_c of each label, (B,); shapes as `sparse_cross_entropy`'s.

    The D distinct classes of a row's entries are summed up first, the other C - D have the tail. A
    probability below 0, which rounding can leave, counts as 0.
    """
    if class_ids.shape[1] == 0:
        return num_classes * _entropy_terms(tail)
    ids, order = class_ids.sort(1)
    is_new = torch.ones_like(ids, dtype=torch.bool)
    is_new[:, 1:] = ids[:, 1:] != ids[:, :-1]
    place = is_new.cumsum(1) - 1  # of an entry's class among the row's distinct ones
    probs = tail[:, None].repeat(1, ids.shape[1]).scatter_add_(1, place, weights.gather(1, order))
    distinct = is_new.sum(1)
    is_used = torch.arange(ids.shape[1], device=ids.device) < distinct[:, None]
    entries = _entropy_terms(probs).where(is_used, 0).sum(1)
    return entries + (num_classes - distinct) * _entropy_terms(tail)


def label_entropy(labels: LabelTensors, num_classes: int, dtype: torch.dtype) -> torch.Tensor:
    """Return each label's entropy in nats, (B,), computed in ``dtype``."""
    if labels.dense is not None:
        return _entropy_terms(labels.dense.to(dtype)).sum(1)
    weights, tail = labels.weights.to(dtype), labels.tail.to(dtype)
    return sparse_entropy(labels.class_ids, weights, tail, num_classes)


def _entropy_terms(probs: torch.Tensor) -> torch.Tensor:
    """Return -p log p of each; 0 for 0 and below."""
    terms: torch.Tensor = torch.special.entr(probs.clamp(min=0))
    return terms


def centred_mse(logits: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """Return the mean over batch and classes of the squared distance of centred logits, a scalar.

    ``logits`` and ``dense``, the labels' probabilities, are (B, C). Of a label that mixes several
    (a calibration's, or of mixed crops) it is the mixture's logarithm that counts.
    """
    logits = _at_temperature(logits, 1.0)
    logp = dense.to(logits.dtype).clamp(min=_SMALLEST_PROB).log()
    return F.mse_loss(logits - logits.mean(1, keepdim=True), logp - logp.mean(1, keepdim=True))


def distillation_loss(
    logits: torch.Tensor,
    labels: LabelTensors,
    *,
    temperature: float = 1.0,
    truth_weight: float = 0.0,
    loss: LossName = "cross_entropy",
) -> torch.Tensor:
    """Return L = (1 - lambda) H(ground truth) + lambda D(label), a scalar, mean over the batch.

    ``truth_weight`` is 1 - lambda in [0, 1], D what ``loss`` names. Labels must have been stored at
    ``temperature``, which scales the student here and D by T^2; the ground truth's part uses the
    plain logits and is always cross-entropy.

    Raises:
        ParamsError: ``loss`` is mse and the labels do not have every class.
    """
    if truth_weight == 1:
        return _truth_loss(logits, labels)
    value = _label_loss(logits, labels, temperature, loss)
    if truth_weight == 0:
        return value
    return truth_weight * _truth_loss(logits, labels) + (1 - truth_weight) * value


def _label_loss(
    logits: torch.Tensor, labels: LabelTensors, temperature: float, loss: LossName
) -> torch.Tensor:
    if loss == "mse":
        if labels.dense is None:
            raise ParamsError(
                "loss is mse, which needs labels of every class; set compress.kind to full, or "
                "loss to cross_entropy or kl"
            )
        assert temperature == 1, "TrainingConfig allows no other"
        return centred_mse(logits, labels.dense)
    if labels.dense is not None:
        value = dense_cross_entropy(logits, labels.dense, temperature)
    else:
        value = sparse_cross_entropy(
            logits, labels.class_ids, labels.weights, labels.tail, temperature
        )
    if loss == "kl":
        entropy = label_entropy(labels, logits.shape[1], value.dtype)
        value = value - entropy.mean() * temperature**2
    return value


def _truth_loss(logits: torch.Tensor, labels: LabelTensors) -> torch.Tensor:
    if labels.partner_targets is None:
        return F.cross_entropy(_at_temperature(logits, 1.0), labels.targets)
    pair = torch.stack([labels.targets, labels.partner_targets], 1)
    shares = torch.tensor([labels.share, 1 - labels.share], device=logits.device)
    tail = torch.zeros(len(pair), device=logits.device)
    return sparse_cross_entropy(logits, pair, shares.expand(len(pair), 2), tail)


def _at_temperature(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a bfloat16 log-probability has two digits
    return logits if temperature == 1 else logits / temperature

"""Soft cross-entropy on sparse labels, without ever building the dense (B, C) label.

Shapes: B crops, E entries a crop, C classes. With the label t = tail + sum_e w_e onehot(k_e) and
logp = log_softmax(logits):

    L = -sum_c t_c logp_c = -(sum_e w_e logp[k_e]) - tail * sum_c logp_c
    dL/dlogits = (sum_c t_c) softmax(logits) - t

The gradient's classes sum to 0 whatever the label sums to. Reference: FKD, Shen & Xing 2022, Eq. 5
(labels) and Eq. 3 (loss); temperature as Hinton et al. 2015, T^2 CE at T.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from stages.shared.training.labels import LabelTensors

_CPU_ROWS = 64
"""Rows whose gradient is made at once on a CPU: 64 x 1000 float32 stay in the second-level cache,
which saves two trips to memory (about 7 % of the whole at B=1024, C=1000)."""


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


def distillation_loss(
    logits: torch.Tensor,
    labels: LabelTensors,
    *,
    temperature: float = 1.0,
    truth_weight: float = 0.0,
) -> torch.Tensor:
    """Return L = (1 - lambda) H(ground truth) + lambda H(label), a scalar, mean over the batch.

    ``truth_weight`` is 1 - lambda in [0, 1]. Labels must have been stored at ``temperature``, which
    scales the student here and H(label) by T^2; the ground truth's part uses the plain logits.
    """
    if truth_weight == 1:
        return F.cross_entropy(_at_temperature(logits, 1.0), labels.targets)
    if labels.dense is not None:
        loss = dense_cross_entropy(logits, labels.dense, temperature)
    else:
        loss = sparse_cross_entropy(
            logits, labels.class_ids, labels.weights, labels.tail, temperature
        )
    if truth_weight == 0:
        return loss
    truth = F.cross_entropy(_at_temperature(logits, 1.0), labels.targets)
    return truth_weight * truth + (1 - truth_weight) * loss


def _at_temperature(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a bfloat16 log-probability has two digits
    return logits if temperature == 1 else logits / temperature

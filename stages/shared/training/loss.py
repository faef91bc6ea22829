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

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from stages.shared.training.config import LossName
from stages.shared.training.labels import LabelTensors
from store.errors import ParamsError

TemperatureOn = Literal["both", "student"]
"""`TrainingConfig.temperature_on`."""

_SMALLEST_PROB = 2.0**-24
"""Least float16 above 0, where logarithms of labels stop: a stored 0 was less than half of it, and
log 0 would be infinite. An online teacher's labels stop there too: same labels, same loss."""

_PLAIN_PROB = 1e-30
"""Above it the logarithm of a float32 probability has all its digits; below 1e-38 it loses them."""


class _SparseSoftCrossEntropy(torch.autograd.Function):
    """Mean over the rows; saves one buffer of the logits' size, as hard-label cross-entropy does.

    That buffer is the softmax, of which the gradient is a product and a difference: from
    log-probabilities it would take another exponential of each class. At this size calls cost as
    much as numbers, so there are dot products over all rows instead of sums and means.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        class_ids: torch.Tensor,
        weights: torch.Tensor,
        tail: torch.Tensor,
    ) -> torch.Tensor:
        num_rows, num_classes = logits.shape
        probs = logits.softmax(1)
        ctx.save_for_backward(probs, class_ids, weights, tail)
        logp, log_sums = _log_probs(logits, probs, class_ids)
        # sum_c logp_c; BLAS adds up rows faster than `sum` does.
        all_logp = logits.mv(logits.new_ones(num_classes)).sub_(log_sums, alpha=num_classes)
        value = torch.dot(weights.reshape(-1), logp.view(-1)).add_(torch.dot(tail, all_logp))
        return value.div_(-num_rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        probs, class_ids, weights, tail = ctx.saved_tensors
        scale = upstream / -len(probs)
        weights, tail = weights * scale, tail * scale
        mass = weights.sum(1).add_(tail, alpha=probs.shape[1]).neg_()
        grad = torch.mul(probs, mass[:, None]).add_(tail[:, None])
        # scatter_add_ takes repeated ids: a class that stands twice gets both weights.
        return grad.scatter_add_(1, class_ids, weights), None, None, None


def _log_probs(
    logits: torch.Tensor, probs: torch.Tensor, class_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the entries' log-probabilities (B, E) and log sum_c exp(logits_c) (B,).

    On a CPU, where no entry is too improbable to have a logarithm, the first of a row tells the
    sum: to find the most probable class instead takes a tenth of the whole loss.
    """
    # On a GPU the question itself would wait for the device.
    if logits.device.type == "cpu" and class_ids.numel():
        logp = probs.gather(1, class_ids)
        if logp.amin().item() > _PLAIN_PROB:
            logp.log_()
            return logp, logits.gather(1, class_ids[:, :1])[:, 0].sub_(logp[:, 0])
    log_sums = logits.amax(1).sub_(probs.amax(1).log_())
    return logits.gather(1, class_ids) - log_sums[:, None], log_sums


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
    value: torch.Tensor = _SparseSoftCrossEntropy.apply(logits, class_ids, weights, tail)
    return _times(value, temperature**2)


def dense_cross_entropy(
    logits: torch.Tensor, dense: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return what `sparse_cross_entropy` does for labels (B, C) that are dense (kind `full`)."""
    logits = _at_temperature(logits, temperature)
    return _times(F.cross_entropy(logits, dense.to(logits.dtype)), temperature**2)


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
    temperature_on: TemperatureOn = "both",
) -> torch.Tensor:
    """Return L = (1 - lambda) H(ground truth) + lambda D(label), a scalar, mean over the batch.

    ``truth_weight`` is 1 - lambda in [0, 1], D what ``loss`` names. Of ``temperature_on`` both,
    labels must have been stored at ``temperature``, which scales the student here and D by T^2; of
    student they are stored at 1, and T scales the student alone (as FKD's published code does). The
    ground truth's part uses the plain logits and is always cross-entropy.

    Raises:
        ParamsError: ``loss`` is mse and the labels do not have every class.
    """
    if truth_weight == 1:
        return _truth_loss(logits, labels)
    value = _label_loss(_at_temperature(logits, temperature), labels, loss)
    if temperature_on == "both":
        value = _times(value, temperature**2)
    if truth_weight == 0:
        return value
    return truth_weight * _truth_loss(logits, labels) + (1 - truth_weight) * value


def _label_loss(logits: torch.Tensor, labels: LabelTensors, loss: LossName) -> torch.Tensor:
    """Return D of logits that are at the temperature already."""
    assert loss != "projection", "stages.shared.training.projection_loss has it"
    if loss == "mse":
        if labels.dense is None:
            raise ParamsError(
                "loss is mse, which needs labels of every class; set compress.kind to full, or "
                "loss to cross_entropy or kl"
            )
        return centred_mse(logits, labels.dense)
    if labels.dense is not None:
        value = dense_cross_entropy(logits, labels.dense)
    else:
        value = sparse_cross_entropy(logits, labels.class_ids, labels.weights, labels.tail)
    if loss == "kl":
        value = value - label_entropy(labels, logits.shape[1], value.dtype).mean()
    return value


def _truth_loss(logits: torch.Tensor, labels: LabelTensors) -> torch.Tensor:
    if labels.partner_targets is None:
        return F.cross_entropy(_at_temperature(logits, 1.0), labels.targets)
    pair = torch.stack([labels.targets, labels.partner_targets], 1)
    share = labels.share
    if isinstance(share, torch.Tensor):
        shares = torch.stack([share, 1 - share], 1)
    else:
        shares = torch.tensor([share, 1 - share], device=logits.device).expand(len(pair), 2)
    tail = torch.zeros(len(pair), device=logits.device)
    return sparse_cross_entropy(logits, pair, shares, tail)


def _at_temperature(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a bfloat16 log-probability has two digits
    return logits if temperature == 1 else logits / temperature


def _times(value: torch.Tensor, factor: float) -> torch.Tensor:
    return value if factor == 1 else value * factor

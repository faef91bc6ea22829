"""Time of the loss, forward and backward, beside hard-label cross-entropy.

Shapes: B crops, C classes, K entries.
"""

import os
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.training.reference_loader import dense_labels
from benchmarks.training.turns import on_cores, seconds_in_turns
from stages.shared.training.labels import LabelTensors
from stages.shared.training.loss import distillation_loss

BATCH, CLASSES, ENTRIES = 1024, 1000, 5
_ROUNDS = 20
"""Times as many rounds as of what takes seconds: one takes a millisecond."""


def ratios(rounds: int) -> dict[str, float]:
    """Milliseconds of the best round, and its ratio to hard labels'; then on two cores.

    Each way is timed in turns with hard labels alone: what a third one leaves in the caches, and
    in the heap, costs the two unlike amounts.
    """
    found: dict[str, float] = {}
    for number in (1, 2) if len(os.sched_getaffinity(0)) > 1 else (1,):
        with on_cores(number):
            clock = time.process_time if number == 1 else time.perf_counter
            tasks = _tasks(BATCH)
            for name in ("ours", "reference", "gather") if number == 1 else ("ours",):
                pair = {"hard": tasks["hard"], name: tasks[name]}
                seconds = seconds_in_turns(pair, rounds * _ROUNDS, clock)
                best = {each: 1000 * min(values) for each, values in seconds.items()}
                found |= _named(name, best, number)
    return found


def _named(name: str, best: dict[str, float], number: int) -> dict[str, float]:
    ratio = best[name] / best["hard"]
    if number > 1:
        return {"loss_ratio_two_cores": ratio}
    if name == "ours":
        return {"loss_hard_ms": best["hard"], "loss_ours_ms": best["ours"], "loss_ratio": ratio}
    return {f"loss_{name}_ms": best[name], f"loss_{name}_ratio": ratio}


def _tasks(batch: int) -> dict[str, Callable[[], object]]:
    rng = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(batch, CLASSES, generator=rng)).requires_grad_()
    ids = torch.rand(batch, CLASSES, generator=rng).argsort(1)[:, :ENTRIES].contiguous()
    probs = torch.rand(batch, ENTRIES, generator=rng).sort(1, descending=True)[0]
    probs = 0.9 * probs / probs.sum(1, keepdim=True)
    pairs = torch.stack([ids.float(), probs], 1)
    targets, tail = ids[:, 0].contiguous(), (1 - probs.sum(1)) / (CLASSES - ENTRIES)
    labels = LabelTensors(ids, probs - tail[:, None], tail, targets)

    def dense() -> torch.Tensor:
        """FKD's: the dense label, then the sum over all classes."""
        label = dense_labels(pairs, CLASSES)
        return (-label * logits.log_softmax(1)).sum(1).mean()

    def gather() -> torch.Tensor:
        """The plain way with sparse labels, by autograd."""
        logp = logits.log_softmax(1)
        rows = (labels.weights * logp.gather(1, ids)).sum(1) + tail * logp.sum(1)
        return -rows.mean()

    losses = {
        "hard": lambda: F.cross_entropy(logits, targets),
        "ours": lambda: distillation_loss(logits, labels),
        "reference": dense,
        "gather": gather,
    }
    check = [loss().detach() for name, loss in losses.items() if name != "hard"]
    assert torch.allclose(torch.stack(check), check[0]), "three ways to one loss"
    return {name: _step(loss, logits) for name, loss in losses.items()}


def _step(loss: Callable[[], torch.Tensor], logits: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        logits.grad = None
        loss().backward()  # type: ignore[no-untyped-call]

    return run

"""From what the teacher said to stored labels, as arrays.

Shapes: N crops, R ranked classes, K stored classes, C classes, T temperatures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.codecs import LabelSpec, encode
from store.precision import Precision, round_maximum, round_probability

Columns = dict[str, NDArray[Any]]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of N crops; rows of rejected images are NaN."""

    topk_class: NDArray[np.int32]
    """(N, R) ranked by unrounded logit; -1 in rejected rows."""
    topk_logp: NDArray[np.float16]
    """(N, R) log-probabilities at temperature 1."""
    logp: NDArray[np.float16] | None
    """(N, C) where predictions are dense."""
    target_logp: NDArray[np.float16]
    """(N,)"""
    logsumexp: NDArray[np.float32]
    """(N, T) of z / temperature."""
    temperatures: tuple[float, ...]

    def probabilities(self, temperature: float) -> F64:
        """(N, R) probabilities of the ranked classes at a temperature."""
        return np.exp(self._log_probability(self.topk_logp, temperature))

    def target_probability(self, temperature: float) -> F64:
        """(N,) probability of the ground truth at a temperature."""
        logp = self._log_probability(self.target_logp[:, None], temperature)[:, 0]
        return np.asarray(np.exp(logp))

    def dense(self, temperature: float) -> F64:
        """(N, C) probabilities of every class; needs dense predictions."""
        assert self.logp is not None
        return np.asarray(np.exp(self._log_probability(self.logp, temperature)))

    def _log_probability(self, logp: NDArray[np.float16], temperature: float) -> F64:
        """log softmax(z / T) = (logp + logsumexp(z)) / T - logsumexp(z / T)."""
        values = logp.astype(np.float64)
        if temperature == 1:
            return values
        one = self._column(1.0)
        if temperature in self.temperatures:
            return (values + one) / temperature - self._column(temperature)
        assert self.logp is not None, "run checks that these predictions serve it"
        scaled = self.logp.astype(np.float64) / temperature
        total: F64 = np.exp(scaled).sum(axis=1, keepdims=True)
        return values / temperature - np.log(total)

    def _column(self, temperature: float) -> F64:
        index = self.temperatures.index(temperature)
        return self.logsumexp[:, index : index + 1].astype(np.float64)


def statistics(predictions: Predictions, precision: Precision, num_classes: int) -> Columns:
    """The maximum and the target's probability at temperature 1, which calibration reads.

    They depend on nothing but the predictions and their grid: not on kind, K or temperature.
    """
    maximum = predictions.probabilities(1.0)[:, 0]
    return {
        "max_prob": round_maximum(maximum, precision, num_classes),
        "target_prob": round_probability(predictions.target_probability(1.0), precision),
    }


def sparse_columns(spec: LabelSpec, predictions: Predictions, target: NDArray[np.int32]) -> Columns:
    """Columns of a soft part for N crops of ground truth ``target`` (N,), but for their ids."""
    labels = encode(
        spec,
        predictions.topk_class,
        predictions.probabilities(spec.temperature)[:, : spec.num_stored],
        target,
        predictions.target_probability(spec.temperature),
    )
    columns: Columns = {
        "target": target,
        **statistics(predictions, spec.precision, spec.num_classes),
        **{f"class_{k}": labels.class_ids[:, k] for k in range(spec.num_stored)},
        **{f"prob_{k}": labels.probs[:, k] for k in range(spec.num_stored)},
    }
    if labels.target_prob is not None:
        columns["outside_prob"] = labels.target_prob
    return columns

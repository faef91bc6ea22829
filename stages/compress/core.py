"""From what the teacher said to stored labels, as arrays.

Shapes: N crops, R ranked classes, C classes, T temperatures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    def can_serve(self, temperature: float) -> bool:
        """Whether probabilities at this temperature can be computed."""
        return self.logp is not None or temperature in self.temperatures

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
        return np.exp(self._log_probability(self.logp, temperature))

    def _log_probability(self, logp: NDArray[np.float16], temperature: float) -> F64:
        """log softmax(z / T) = (logp + logsumexp(z)) / T - logsumexp(z / T)."""
        values = logp.astype(np.float64)
        if temperature == 1:
            return values
        one = self._column(1.0)
        if temperature in self.temperatures:
            return (values + one) / temperature - self._column(temperature)
        assert self.logp is not None, "checked by can_serve"
        scaled = self.logp.astype(np.float64) / temperature
        return values / temperature - np.log(np.exp(scaled).sum(axis=1, keepdims=True))

    def _column(self, temperature: float) -> F64:
        index = self.temperatures.index(temperature)
        return self.logsumexp[:, index : index + 1].astype(np.float64)

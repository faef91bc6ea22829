"""What tests of calibration share: recipes from plain mappings, and evidence from plain arrays."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.calibrate.config import Config
from stages.calibrate.fit import Evidence
from stages.calibrate.reliability import Reliability
from stages.calibrate.steps import Step
from store.precision import Precision

FERKD_CUSTOM = {"step": "ferkd", "preset": "custom"}


def steps(*given: dict[str, object]) -> tuple[Step, ...]:
    return Config.model_validate({"name": list(given)}).root["name"]


def evidence(
    max_prob: ArrayLike,
    precision: Precision = "float16",
    *,
    right: ArrayLike | None = None,
    target_prob: ArrayLike | None = None,
    num_classes: int = 10,
    validation: dict[str, Reliability] | None = None,
    scores: dict[str, NDArray[np.float32]] | None = None,
) -> Evidence:
    """Evidence of crops whose stored maxima are given; by default the teacher is always right."""
    stored = np.asarray(max_prob, np.float32)
    hits = np.ones(len(stored), bool) if right is None else np.asarray(right, bool)
    target = stored if target_prob is None else np.asarray(target_prob, np.float32)
    training = {
        "max": Reliability.of(stored, hits, target),
        "target": Reliability.of(target, hits, target),
    }
    return Evidence(precision, num_classes, training, validation, scores or {})

"""Time per step of ground truth, stored labels and an online teacher, measured in turns.

One process, no worker processes, a few steps of each in every round: whatever else the machine does
falls on all three alike. A step's time includes reading, decoding and resizing its crops.
"""

import statistics
from pathlib import Path

from stages.compare.config import STORE, TRUTH
from stages.shared import models
from stages.shared.contract import Json, Progress
from stages.shared.training.batches import CropView, StoredCrops
from stages.shared.training.config import LearnerConfig
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.timing import in_turns, num_steps
from stages.shared.training.trainer import Trainer

ONLINE = "online teacher"
"""The arm whose labels the teacher computes in every step."""


def measure(
    student: LearnerConfig,
    view: CropView,
    teacher: Path | None,
    rounds: int,
    steps: int,
    progress: Progress,
) -> dict[str, list[float]]:
    """Return each arm's seconds per step, one value a round.

    Raises:
        DataError: the teacher's folder is damaged, or an image cannot be read.
    """
    trainers = _trainers(student, view, teacher, num_steps(rounds, steps))
    return in_turns(trainers, rounds, steps, progress)


def summarise(seconds: dict[str, list[float]], steps: int) -> dict[str, Json]:
    """Return medians in seconds, and medians of each round's ratio to ground truth.

    Where nothing was timed (``seconds`` is empty), neither has entries.
    """
    return {
        "rounds": len(seconds.get(TRUTH, ())),
        "steps_per_round": steps,
        "seconds_per_step": {arm: statistics.median(values) for arm, values in seconds.items()},
        "ratio_to_truth": {arm: ratio(seconds, arm) for arm in seconds},
    }


def ratio(seconds: dict[str, list[float]], arm: str) -> float:
    """Return the median over the rounds of ``arm``'s time by ground truth's."""
    pairs = zip(seconds[arm], seconds[TRUTH], strict=True)
    return statistics.median(own / truth for own, truth in pairs)


def line(seconds: dict[str, list[float]]) -> str:
    """Return one sentence for people."""
    parts = [
        f"{arm} {1000 * statistics.median(values):.1f} ms ({ratio(seconds, arm):.2f}x)"
        for arm, values in seconds.items()
    ]
    return f"time per step, data included: {', '.join(parts)}"


def _trainers(
    student: LearnerConfig, view: CropView, teacher: Path | None, length: int
) -> dict[str, Trainer]:
    config = student.model_copy(
        update={
            "steps": length,
            "epochs": None,
            "warmup_epochs": None,
            "num_workers": 0,
            "loss": "cross_entropy",  # one-hot labels have no mse
            "mix": "none",  # a teacher of another input size cannot be mixed
        }
    )
    seed = config.seed
    online = None if teacher is None else OnlineTeacher(models.load_model(teacher))
    trainers = {}
    for arm in (TRUTH, STORE, ONLINE):
        if arm == ONLINE and online is None:
            continue
        source = StoredCrops(view, seed, "store" if arm == STORE else "truth")
        model = models.build(config.model, view.num_classes, seed=seed)
        trainers[arm] = Trainer(
            model.module, model.spec, source, config, teacher=online if arm == ONLINE else None
        )
    return trainers

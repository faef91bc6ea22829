"""Seconds of a training step by the labels that it learns from, in one process, in turns."""

import statistics
from collections.abc import Iterable

from experiments.facts import Row
from experiments.student import prepare
from experiments.study import Study
from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.training.batches import StoredCrops
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.timing import in_turns, num_steps
from stages.shared.training.trainer import Trainer


def rows(found: Study) -> Iterable[Row]:
    """Yield the median over the rounds for each timed arm of the first world.

    Raises:
        DataError: the first world was not made.
    """
    trainers = {name: _trainer(found, name) for name in found.timing.arms}
    seconds = in_turns(trainers, found.timing.rounds, found.timing.steps, NoProgress())
    for name, values in seconds.items():
        pairs = zip(values, seconds[found.timing.arms[0]], strict=True)
        yield {
            "arm": name,
            "seconds_per_step": round(statistics.median(values), 5),
            "ratio": round(statistics.median(own / first for own, first in pairs), 3),
        }


def _trainer(found: Study, name: str) -> Trainer:
    seed = found.seeds[0]
    ready = prepare(found, found.first_world, name, seed)
    length = num_steps(found.timing.rounds, found.timing.steps)
    config = ready.config.model_copy(
        update={"steps": length, "epochs": None, "warmup_epochs": None, "num_workers": 0}
    )
    teacher = None
    if ready.arm.learn == "online":
        teacher = OnlineTeacher(models.load_model(ready.world / "models" / "teacher"))
    view = ready.plan.open()
    source = StoredCrops(view, seed, "store" if config.labels == "store" else "truth")
    model = models.build(config.model, view.num_classes, seed=seed)
    return Trainer(model.module, model.spec, source, config, teacher=teacher)

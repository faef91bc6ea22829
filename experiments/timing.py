"""Seconds of a training step by the labels that it learns from, measured in turns.

One process, no worker processes, a few steps of each arm in every round: whatever else the machine
does falls on all of them alike.
"""

import statistics
from collections.abc import Iterable

from experiments.facts import Row
from experiments.student import prepare
from experiments.study import Study
from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.training.batches import StoredCrops
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.trainer import Trainer

_WARM_UP = 3  # steps before the first round: caches fill, kernels are chosen


def rows(found: Study) -> Iterable[Row]:
    """Yield the median over the rounds for each timed arm of the first world.

    Raises:
        DataError: the first world was not made.
    """
    trainers = {name: _trainer(found, name) for name in found.timing.arms}
    for trainer in trainers.values():
        trainer.advance(_WARM_UP, NoProgress())
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(found.timing.rounds):
        # Every other round backwards: none always runs in the heat of the same one.
        order = list(trainers) if number % 2 == 0 else list(reversed(trainers))
        for name in order:
            taken = trainers[name].advance(found.timing.steps, NoProgress())
            seconds[name].append(taken / found.timing.steps)
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
    num_steps = _WARM_UP + found.timing.rounds * found.timing.steps
    config = ready.config.model_copy(
        update={"steps": num_steps, "epochs": None, "warmup_epochs": None, "num_workers": 0}
    )
    teacher = None
    if ready.arm.learn == "online":
        teacher = OnlineTeacher(models.load_model(ready.world / "models" / "teacher"))
    view = ready.plan.open()
    source = StoredCrops(view, config.crops_per_image, seed, config.labels)
    model = models.build(config.model, view.num_classes, seed=seed)
    return Trainer(model.module, model.spec, source, config, teacher=teacher)

"""Time of a training step with ground truth, stored labels and an online teacher, in turns."""

import statistics
from dataclasses import dataclass

from benchmarks.training.loading import LargeStore
from benchmarks.training.world import World
from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.model_config import ModelConfig
from stages.shared.training.config import TrainingConfig
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.timing import in_turns, num_steps
from stages.shared.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Setting:
    """Networks and sizes of the steps."""

    student: str = "resnet18"
    teacher: str = "resnet50"
    side: int = 64
    """Input size of both, pixels."""
    batch_size: int = 32
    crops_per_image: int = 4
    steps_a_round: int = 2


def ratios(world: World, rounds: int, setting: Setting | None = None) -> dict[str, float]:
    """Medians over the rounds; data are read, decoded and resized within the step."""
    setting = setting or Setting()
    trainers = _trainers(world, setting, num_steps(rounds, setting.steps_a_round))
    seconds = in_turns(trainers, rounds, setting.steps_a_round, NoProgress())
    truth, stored, online = (seconds[name] for name in ("truth", "stored", "online"))
    return {
        "step_ratio_truth": _median_ratio(stored, truth),
        "step_ratio_online": _median_ratio(online, stored),
        "step_truth_ms": 1000 * statistics.median(truth),
        "step_stored_ms": 1000 * statistics.median(stored),
        "step_online_ms": 1000 * statistics.median(online),
    }


def _trainers(world: World, setting: Setting, length: int) -> dict[str, Trainer]:
    view = world.open_view()
    config = TrainingConfig(
        steps=length,
        batch_size=setting.batch_size,
        crops_per_image=setting.crops_per_image,
        lr=1e-3,
        device="cpu",
    )
    teacher = OnlineTeacher(_network(setting.teacher, setting, view.num_classes))
    trainers = {}
    for name in ("truth", "stored", "online"):
        source = LargeStore(view, "store" if name == "stored" else "truth")
        student = _network(setting.student, setting, view.num_classes)
        trainers[name] = Trainer(
            student.module,
            student.spec,
            source,
            config,
            teacher=teacher if name == "online" else None,
        )
    return trainers


def _network(name: str, setting: Setting, num_classes: int) -> models.Model:
    side = setting.side
    config = ModelConfig(name=name, input_size=(side, side), interpolation="bilinear")
    return models.build(config, num_classes, seed=0)


def _median_ratio(values: list[float], base: list[float]) -> float:
    return statistics.median(own / other for own, other in zip(values, base, strict=True))

"""From a config and a source of crops to a trained network, and the files that it leaves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.shared import models
from stages.shared.contract import Json, Progress, keyed_params
from stages.shared.models import Model
from stages.shared.training.batches import CropSource
from stages.shared.training.config import LearnerConfig
from stages.shared.training.evaluation import EvaluationSet, Evaluator
from stages.shared.training.fit import Places, fit
from stages.shared.training.history import History
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.training.ranks import Ranks
from store.atomic import replace_folder

_WORTH_TELLING = 0.2
"""Share of the time spent waiting for data from which on people are told."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A trained network and how it came about."""

    model: Model
    history: History

    @property
    def num_parameters(self) -> int:
        """Trainable numbers in the network."""
        return sum(part.numel() for part in self.model.module.parameters())


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the results of a training go; each appears when it is complete."""

    model: Path
    """Model folder, such as ``models/student``."""
    metrics: Path
    """Folder for ``summary.json`` and ``curve.csv``, such as ``metrics/train``."""
    places: Places = field(default_factory=Places)
    """Where it leaves what only it needs while it is unfinished."""


def learn(
    config: LearnerConfig,
    source: CropSource,
    *,
    evaluation: EvaluationSet | None,
    progress: Progress,
    label: str,
    teacher: OnlineTeacher | None = None,
    ranks: Ranks | None = None,
    places: Places | None = None,
    tells: bool = False,
) -> Learned:
    """Build the network that ``config`` names, train it on ``source`` and measure it.

    ``teacher`` labels the crops of every step anew, instead of the labels of ``source``. The other
    arguments are those of `fit`.

    Raises:
        ParamsError: the network, optimizer, device or precision cannot be had, or the loss or the
            mixing does not suit labels or teacher.
        DataError: an image is missing, damaged or changed, or a checkpoint does not fit.
        ShardError: training diverged.
        RetryError: an image could not be read this time, or a process that reads died.
    """
    model = models.build(config.model, source.num_classes, seed=config.seed)
    evaluator = None
    if evaluation is not None:
        evaluator = Evaluator(evaluation, model.spec, num_workers=config.num_workers)
    history = fit(
        model.module,
        model.spec,
        source,
        config,
        evaluator=evaluator,
        teacher=teacher,
        progress=progress,
        label=label,
        ranks=ranks,
        places=places,
        tells=tells,
    )
    return Learned(model, history)


def save(
    folder: Path,
    config: LearnerConfig,
    learned: Learned,
    class_names: Sequence[str],
    **made_from: Json,
) -> None:
    """Publish the network as a model folder, replacing an older one.

    ``made_from`` says which stage and labels made it; the training's parameters are added, without
    paths: a copy of the project elsewhere gives the same file. Starting weights stand in it as the
    SHA-256 of the network before its first step, null where all of it was drawn at random.
    """
    has_start = config.model.pretrained or config.model.weights is not None
    made_from["training"] = _without_paths(config)
    made_from["starting_weights"] = learned.model.digest if has_start else None
    card = models.card_of(config.model, learned.model.spec, class_names, **made_from)
    models.save_model(folder, learned.model.module, card)


def _without_paths(config: LearnerConfig) -> dict[str, Json]:
    params = keyed_params(config)
    params.pop("evaluation", None)
    params["model"] = config.model.model_dump(mode="json", exclude={"weights"})
    return params


def sentence(role: str, config: LearnerConfig, learned: Learned, set_name: str | None) -> str:
    """Return one line for people: what was trained, for how long, how good it is."""
    network = f"{role} {config.model.name} ({learned.num_parameters:,} parameters)"
    steps = f"{len(learned.history.losses):,} steps of {config.batch_size} crops"
    final = learned.history.final
    if final is None:
        return f"{network}: trained for {steps}; no evaluation folder is set"
    return f"{network}: top-1 {final.top1:.1%} on {set_name} after {steps}".replace("%", " %")


def waited(learned: Learned) -> tuple[str, ...]:
    """Return a sentence where the network often had to wait for its data."""
    share = learned.history.waited_share()
    if share is None or share < _WORTH_TELLING:
        return ()
    return (
        f"waited for data {share:.0%} of the time: raise num_workers, or see whether the disk "
        "is slow".replace("%", " %"),
    )


def write_metrics(folder: Path, numbers: dict[str, Json], history: History) -> None:
    """Publish ``summary.json`` and ``curve.csv`` in ``folder``, replacing an older one."""
    with replace_folder(folder) as partial:
        write_json(partial / "summary.json", numbers)
        (partial / "curve.csv").write_text(history.curve_csv(), encoding="utf-8")


def write_json(path: Path, value: Json | dict[str, Json]) -> None:
    """Write JSON for people and for DVC: indented, keys in the order given."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")

"""Influence of training images on a loss, by kronfluence: EK-FAC, or products of gradients.

With g the gradient of an image's loss, q the mean gradient of the loss that is measured and H the
curvature, the score is q' H^-1 g: how fast that loss falls as the image weighs more. High is
helpful. Where nothing is measured on, q is g itself. TracIn has the learning rate for H^-1, summed
over points of the training. Only convolutions and linear layers count.

Shapes: N images, B images of a batch, (h, w) the proxy's input size.
"""

import copy
import gc
import importlib.util
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.data import Subset

from stages.score import core
from stages.score.config import Influence, TracIn
from stages.score.images import Crops, Files
from stages.score.proxies import Look
from stages.shared.contract import Progress
from stages.shared.pixels import normalise
from stages.shared.training.evaluation import EvaluationSet
from store.atomic import remove
from store.errors import DataError, ParamsError, ShardError

INSTALL = "pip install 'ferkd-pipeline[influence]'"

Batch = list[torch.Tensor]
"""Pixels (B, 3, h, w) uint8 and targets (B,) int64."""


def require_library(name: str) -> None:
    """Refuse to start where the library is missing; ``name`` is that of the scores.

    Raises:
        ParamsError: with the line that installs it.
    """
    if importlib.util.find_spec("kronfluence") is None:
        raise ParamsError(
            f"score.{name} needs the library kronfluence, which is not installed: {INSTALL}, or "
            "choose another estimator"
        )


class Influences:
    """The watcher of the estimators influence and tracin."""

    reads_outputs = False

    def __init__(
        self,
        config: Influence | TracIn,
        num_images: int,
        queries: EvaluationSet | None,
        work: Path,
    ) -> None:
        """``work`` is a folder for factors, which is made; what it holds is deleted again."""
        self._config, self._queries, self._work = config, queries, work
        self._sums = np.full(num_images, np.nan)

    def steps(self, num_steps: int) -> Sequence[int]:
        """The end of the training, or points on the way."""
        if isinstance(self._config, TracIn):
            return core.middles(num_steps, self._config.checkpoints)
        return [num_steps]

    def outputs(self, look: Look, rows: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Nothing: gradients need the network."""

    def network(self, look: Look, progress: Progress) -> None:
        """Add this network's influences."""
        weight = look.lr if isinstance(self._config, TracIn) else 1.0
        rows = look.crops.rows
        found = weight * self._of_network(look, progress)
        if not np.isfinite(found).all():
            raise ShardError(
                f"influences at step {look.step} are not finite; set damping, or lower the "
                "proxy's lr"
            )
        self._sums[rows] = found + np.nan_to_num(self._sums[rows])

    def scores(self) -> NDArray[np.float64]:
        """Return the scores (N,); NaN where there is none."""
        return self._sums

    def _of_network(self, look: Look, progress: Progress) -> NDArray[np.float64]:
        remove(self._work)  # of a run that was killed
        self._work.mkdir(parents=True)
        queries = self._query_crops(look, progress)
        with tempfile.TemporaryDirectory(dir=self._work) as folder, _quiet():
            torch.manual_seed(self._config.proxy.seed)  # EK-FAC samples classes
            found = _compute(self._config, look, queries, Path(folder), progress)
        remove(self._work)
        return found

    def _query_crops(self, look: Look, progress: Progress) -> Crops | None:
        if self._queries is None:
            return None
        config = self._config
        crops = Crops(
            Files.of_set(self._queries),
            look.spec,
            batch_size=config.batch_size,
            num_workers=config.proxy.num_workers,
        )
        for row, reason in crops.look(progress, f"{self._queries.name}: images").items():
            raise DataError(f"{self._queries.paths[row]}: {reason}; repair or remove it")
        return crops


def _compute(
    config: Influence | TracIn, look: Look, queries: Crops | None, folder: Path, progress: Progress
) -> NDArray[np.float64]:
    """Return the influence (n,) of every usable image.

    kronfluence keeps factors in files; they take about four times the room of the network.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.utils.dataset import DataLoaderKwargs

    images = look.crops
    task = _task(look, progress)
    network = prepare_model(copy.deepcopy(look.module), task)
    is_cpu = look.device.type == "cpu"
    analyzer = Analyzer(
        "proxy", network, task, cpu=is_cpu, disable_tqdm=True, output_dir=str(folder)
    )
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(num_workers=config.proxy.num_workers))
    size = config.batch_size
    fitted, strategy, damping = _fitted(config, images)
    num_looks = 2 * len(fitted) if strategy == "ekfac" else 0
    num_queries = 0 if queries is None else len(queries)
    progress.start("influence", num_looks + num_queries + len(images), "images")
    analyzer.fit_all_factors(
        "factors",
        fitted,
        per_device_batch_size=size,
        factor_args=FactorArguments(strategy=strategy),
    )
    if queries is None:
        analyzer.compute_self_scores(
            "scores",
            "factors",
            images,
            per_device_train_batch_size=size,
            score_args=ScoreArguments(damping_factor=damping),
        )
        found = analyzer.load_self_scores("scores")
    else:
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            queries,
            images,
            per_device_query_batch_size=size,
            per_device_train_batch_size=size,
            score_args=ScoreArguments(damping_factor=damping, aggregate_query_gradients=True),
        )
        found = analyzer.load_pairwise_scores("scores")
    return np.asarray(found["all_modules"].double().numpy().ravel() / max(1, num_queries))


def _fitted(
    config: Influence | TracIn, images: Crops
) -> tuple[Crops | Subset[Any], str, float | None]:
    """Return the images that the curvature is fitted on, kronfluence's strategy and damping."""
    if isinstance(config, TracIn):
        return images, "identity", 0.0
    # kronfluence would take the first ones, which are of few classes: images lie class by class.
    drawn = core.random_rows(len(images), config.fit_images, config.proxy.seed)
    return Subset(images, drawn.tolist()), "ekfac", config.damping


def _task(look: Look, progress: Progress) -> Any:
    """Return kronfluence's view of the loss, which tells progress of every batch."""
    from kronfluence.task import Task

    spec, names = look.spec, _layers(look.module)

    class Truth(Task):  # type: ignore[misc]
        """Cross-entropy with the ground truth."""

        def compute_train_loss(
            self, batch: Batch, model: nn.Module, sample: bool = False
        ) -> torch.Tensor:
            """Sum over the batch; for the Fisher matrix, of classes drawn by the network."""
            pixels, targets = batch
            logits = model(normalise(pixels, spec.mean, spec.std)).float()
            progress.advance(len(pixels))
            if sample:
                with torch.no_grad():
                    targets = torch.multinomial(logits.softmax(1), 1).flatten()
            return functional.cross_entropy(logits, targets, reduction="sum")

        def compute_measurement(self, batch: Batch, model: nn.Module) -> torch.Tensor:
            """The same loss on what is measured."""
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            """Layers that count."""
            return names

    return Truth()


def _layers(module: nn.Module) -> list[str]:
    """Names of the layers that kronfluence can take: it knows no classes derived from these.

    Raises:
        ParamsError: there are none.
    """
    names = [name for name, part in module.named_modules() if type(part) in (nn.Linear, nn.Conv2d)]
    if not names:
        raise ParamsError(
            "the proxy's network has no torch.nn.Linear or Conv2d, which influence needs; choose "
            "another network or estimator"
        )
    return names


@contextmanager
def _quiet() -> Iterator[None]:
    """Bear with kronfluence: it names torch's gradient scaler as older versions of torch want it,
    and collects garbage ten times, a quarter of a second each, unless what lives is set aside.
    """
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*GradScaler", FutureWarning)
            yield
    finally:
        gc.unfreeze()

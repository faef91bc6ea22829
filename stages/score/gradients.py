"""Influences of one network by kronfluence, phase by phase, each with a progress of its own.

Shapes: n usable images, B images of a batch, (h, w) the proxy's input size.
"""

import copy
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.data import Subset

from stages.score import core
from stages.score.config import Influence, TracIn
from stages.score.images import Crops
from stages.score.proxies import Look
from stages.shared.contract import Progress
from stages.shared.pixels import normalise
from store.errors import ParamsError

Batch = list[torch.Tensor]
"""Pixels (B, 3, h, w) uint8 and targets (B,) int64."""

_FACTORS, _SCORES = "factors", "scores"
"""kronfluence's names of what it keeps in files."""


def compute(
    config: Influence | TracIn, look: Look, queries: Crops | None, folder: Path, progress: Progress
) -> NDArray[np.float64]:
    """Return the influence (n,) of every usable image on the loss of ``queries``, or on its own.

    kronfluence keeps factors in ``folder``; they take about four times the room of the network.

    Raises:
        ParamsError: the network has no layer that counts.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.utils.dataset import DataLoaderKwargs

    steps = _Steps(f"{config.estimator} at step {look.step}", progress)
    names = layers(look.module)
    task = _task(look, names, steps)
    network = prepare_model(copy.deepcopy(look.module), task)
    with _quiet():
        analyzer = Analyzer(
            "proxy",
            network,
            task,
            cpu=look.device.type == "cpu",
            disable_tqdm=True,
            output_dir=str(folder),
        )
        workers = DataLoaderKwargs(num_workers=config.proxy.num_workers)
        analyzer.set_dataloader_kwargs(workers)
        if isinstance(config, Influence):
            damping = config.damping
            _fit(analyzer, config, look.crops, len(names), steps)
        else:
            damping = 0.0
            _fit_nothing(analyzer, look.crops)
        return _scores(analyzer, look.crops, queries, config.batch_size, damping, steps)


def _fit(analyzer: Any, config: Influence, images: Crops, num_layers: int, steps: "_Steps") -> None:
    """Fit the curvature: covariances of each layer, their eigenvectors, and the eigenvalues."""
    from kronfluence.arguments import FactorArguments

    # kronfluence would take the first ones, which are of few classes: images lie class by class.
    drawn = core.random_rows(len(images), config.fit_images, config.proxy.seed)
    fitted = Subset(images, drawn.tolist())
    given: dict[str, Any] = {"factor_args": FactorArguments(strategy="ekfac")}
    batches = {"dataset": fitted, "per_device_batch_size": config.batch_size}
    steps.begin("covariances", len(fitted), "images")
    analyzer.fit_covariance_matrices(_FACTORS, **batches, **given)
    steps.begin("eigenvectors", num_layers, "layers")
    with _Decompositions(steps.advance):
        analyzer.perform_eigendecomposition(_FACTORS, **given)
    steps.begin("eigenvalues", len(fitted), "images")
    analyzer.fit_lambda_matrices(_FACTORS, **batches, **given)


def _fit_nothing(analyzer: Any, images: Crops) -> None:
    """Note that there is no curvature, which reads no image."""
    from kronfluence.arguments import FactorArguments

    analyzer.fit_all_factors(
        _FACTORS, images, per_device_batch_size=1, factor_args=FactorArguments(strategy="identity")
    )


def _scores(
    analyzer: Any,
    images: Crops,
    queries: Crops | None,
    size: int,
    damping: float | None,
    steps: "_Steps",
) -> NDArray[np.float64]:
    from kronfluence.arguments import ScoreArguments

    if queries is None:
        steps.begin("scores", len(images), "images")
        analyzer.compute_self_scores(
            _SCORES,
            _FACTORS,
            images,
            per_device_train_batch_size=size,
            score_args=ScoreArguments(damping_factor=damping),
        )
        found = analyzer.load_self_scores(_SCORES)
    else:
        # All validation images come first; the task begins the scores when the first image comes.
        steps.begin("validation images", len(queries), "images")
        steps.follow("scores", len(images), "images")
        analyzer.compute_pairwise_scores(
            _SCORES,
            _FACTORS,
            queries,
            images,
            per_device_query_batch_size=size,
            per_device_train_batch_size=size,
            score_args=ScoreArguments(damping_factor=damping, aggregate_query_gradients=True),
        )
        found = analyzer.load_pairwise_scores(_SCORES)
    num_queries = 1 if queries is None else len(queries)
    return np.asarray(found["all_modules"].double().numpy().ravel() / num_queries)


class _Steps:
    """The phases of a computation, which differ in speed: each is a task that people watch."""

    def __init__(self, label: str, progress: Progress) -> None:
        self._label, self._progress = label, progress
        self._next: tuple[str, int, str] | None = None
        self.advance = progress.advance

    def begin(self, phase: str, total: int, unit: str) -> None:
        """Begin a phase; the one before has ended."""
        self._next = None
        self._progress.start(f"{self._label}: {phase}", total, unit)

    def follow(self, phase: str, total: int, unit: str) -> None:
        """Say which phase begins as soon as a training image comes."""
        self._next = phase, total, unit

    def train_images(self, num: int) -> None:
        """Count training images."""
        if self._next is not None:
            self.begin(*self._next)
        self.advance(num)


class _Decompositions(TorchFunctionMode):
    """Counts layers while kronfluence decomposes them, which it tells nobody.

    A layer has two matrices, of its inputs and of the gradients of its outputs.
    """

    def __init__(self, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._advance, self._num = advance, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked, and count decompositions."""
        found = func(*args, **(kwargs or {}))
        if func is torch.linalg.eigh:
            self._num += 1
            if self._num % 2 == 0:
                self._advance(1)
        return found


def _task(look: Look, names: list[str], steps: _Steps) -> Any:
    """Return kronfluence's view of the loss, which tells progress of every batch."""
    from kronfluence.task import Task

    spec = look.spec

    class Truth(Task):  # type: ignore[misc]
        """Cross-entropy with the ground truth."""

        def compute_train_loss(
            self, batch: Batch, model: nn.Module, sample: bool = False
        ) -> torch.Tensor:
            """Sum over the batch; for the Fisher matrix, of classes drawn by the network."""
            steps.train_images(len(batch[0]))
            logits, targets = self._outputs(batch, model)
            if sample:
                with torch.no_grad():
                    targets = torch.multinomial(logits.softmax(1), 1).flatten()
            return functional.cross_entropy(logits, targets, reduction="sum")

        def compute_measurement(self, batch: Batch, model: nn.Module) -> torch.Tensor:
            """The same loss on what is measured."""
            steps.advance(len(batch[0]))
            return functional.cross_entropy(*self._outputs(batch, model), reduction="sum")

        def _outputs(self, batch: Batch, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
            pixels, targets = batch
            return model(normalise(pixels, spec.mean, spec.std)).float(), targets

        def get_influence_tracked_modules(self) -> list[str]:
            """Layers that count."""
            return names

    return Truth()


def layers(module: nn.Module) -> list[str]:
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

"""Influence of training images on a loss, by kronfluence: EK-FAC, or products of gradients.

With g the gradient of an image's loss, q the mean gradient of the loss that is measured and H the
curvature, the score is q' H^-1 g: how fast that loss falls as the image weighs more. High is
helpful. Where nothing is measured on, q is g itself. TracIn has the learning rate for H^-1, summed
over points of the training. Only convolutions and linear layers count.

Shapes: N images.
"""

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stages.score import core, gradients
from stages.score.config import Influence, TracIn
from stages.score.images import Crops, Files
from stages.score.proxies import Look
from stages.shared.contract import Progress
from stages.shared.training.evaluation import EvaluationSet
from store.atomic import remove
from store.errors import DataError, ParamsError, ShardError

INSTALL = "pip install 'ferkd-pipeline[influence]'"


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
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            torch.manual_seed(self._config.proxy.seed)  # EK-FAC samples classes
            found = gradients.compute(self._config, look, queries, Path(folder), progress)
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

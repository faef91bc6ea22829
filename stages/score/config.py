"""The parameters of the score stage: named scores of images, each with its estimator.

score:
  helpful: {estimator: influence, evaluation: data/val, proxy: &proxy {model: ..., steps: 800}}
  el2n: {estimator: el2n, proxy: *proxy, proxies: 4}

Scores with equal settings of their proxy share it: it is trained once.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from stages.shared.crop_config import CropConfig
from stages.shared.model_config import ModelConfig
from stages.shared.training.config import TrainingConfig
from store.layout import is_name_of_scores


class Proxy(CropConfig, TrainingConfig):
    """A student that is trained on fresh crops and the ground truth alone, to judge images by."""

    model: ModelConfig
    """The network: a timm model by name, from scratch or from weights."""

    @pydantic.model_validator(mode="after")
    def _check_proxy(self) -> Self:
        if self.temperature != 1:
            raise ValueError(
                f"temperature is {self.temperature}, allowed: 1, since nobody teaches the proxy"
            )
        if self.eval_every is not None:
            raise ValueError("eval_every has no effect on a proxy; leave it out")
        return self

    def params(self) -> dict[str, Any]:
        """Every parameter that can change a byte: no number of workers, no path of weights."""
        unkeyed = {name: True for name in self.NOT_KEYED}
        return self.model_dump(mode="json", exclude={**unkeyed, "model": {"weights"}})


class _Estimator(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    def params(self) -> dict[str, Any]:
        """Every parameter that can change a byte; folders count by their contents."""
        return self.model_dump(mode="json", exclude={"evaluation"})


class _ByProxy(_Estimator):
    proxy: Proxy
    """The network that judges the images, and its training."""

    def params(self) -> dict[str, Any]:
        """As above, of the proxy too."""
        return {**super().params(), "proxy": self.proxy.params()}


class _ByGradients(_ByProxy):
    evaluation: str | None = Field(default=None, min_length=1)
    """Folder of class folders of validation images: the score is how fast the loss on them falls as
    the image weighs more. None: how fast the loss on the image itself does."""

    batch_size: int = Field(default=128, ge=1, le=65536)
    """Images whose gradients are taken at once: each takes the room of the largest layer."""


class Influence(_ByGradients):
    """How much an image helps the proxy on images it never saw: influence functions, EK-FAC."""

    estimator: Literal["influence"]

    damping: float | None = Field(default=None, gt=0, le=1e12)
    """Added to the eigenvalues of the curvature; none: a tenth of a layer's mean eigenvalue."""

    fit_images: int = Field(default=100_000, ge=1, le=10**9)
    """Images, drawn at random, that the curvature is estimated from."""


class TracIn(_ByGradients):
    """As influence, with no curvature: products of gradients at several points of the training."""

    estimator: Literal["tracin"]

    checkpoints: int = Field(default=3, ge=1, le=1000)
    """Points of the training, in the middle of as many equal parts of it."""


class El2n(_ByProxy):
    """Distance of the proxy's probabilities from the ground truth, early in the training."""

    estimator: Literal["el2n"]

    proxies: int = Field(default=4, ge=1, le=1000)
    """Proxies of different seeds, over which the score is averaged."""

    at_step: int | None = Field(default=None, ge=1, le=10**9)
    """Step of the training to look at; none: after a tenth of it."""


class Forgetting(_ByProxy):
    """How often an image that the proxy had right is wrong at the next look."""

    estimator: Literal["forgetting"]

    look_every: int | None = Field(default=None, ge=1, le=10**9)
    """Steps between two looks at all images; none: a twentieth of the training."""


class Loss(_ByProxy):
    """The trained proxy's cross-entropy with the ground truth."""

    estimator: Literal["loss"]


class Disagreement(_ByProxy):
    """Divergence of the trained proxy from the teacher's label, averaged over the image's crops."""

    estimator: Literal["disagreement"]


class Random(_Estimator):
    """A random order, to compare others with."""

    estimator: Literal["random"]

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the scores."""


Settings = Annotated[
    Influence | TracIn | El2n | Forgetting | Loss | Disagreement | Random,
    Field(discriminator="estimator"),
]


class Config(pydantic.RootModel[dict[str, Settings]]):
    """The `score` section of params.yaml: NAME -> estimator; each NAME is a file of scores."""

    model_config = pydantic.ConfigDict(frozen=True)

    NOT_KEYED: ClassVar[frozenset[str]] = frozenset()

    @pydantic.model_validator(mode="after")
    def _check_names(self) -> Self:
        if not self.root:
            raise ValueError(
                "names no scores, needed: at least one; leave the section out if none are wanted"
            )
        for name in self.root:
            if not is_name_of_scores(name):
                raise ValueError(
                    f"{name!r} is no name of scores, allowed: up to 64 letters, digits, . - and _, "
                    "first a letter or digit; not manifest, fit or part-.."
                )
        return self

    @property
    def reads_labels(self) -> bool:
        """Whether any of the scores is made with the stored labels."""
        return any(isinstance(each, Disagreement) for each in self.root.values())

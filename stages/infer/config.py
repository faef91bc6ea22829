"""Parameters of the stage infer."""

import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_serializer,
    field_validator,
    model_validator,
)

from stages.shared.model_config import ModelConfig


class Member(ModelConfig):
    """A teacher, alone or with others."""

    share: float = Field(default=1.0, gt=0, lt=1e6)
    """Weight in the average of several teachers; only their ratios count."""


def _one_or_several(value: object) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


Teachers = Annotated[
    Annotated[Member, Tag("one")]
    | Annotated[tuple[Member, ...], Tag("several"), Field(min_length=1, max_length=64)],
    Discriminator(_one_or_several),
]


class Config(BaseModel):
    """Which teacher labels the crops, how, and what of its output is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    # device, keep, top_r, average, outputs, num_outputs, resize and compile are part of the key as
    # what they come to (Inputs.lineage): `auto` and what it stands for are one key, and so are one
    # teacher and a list of it.
    NOT_KEYED: ClassVar[frozenset[str]] = frozenset(
        {
            *("num_workers", "max_reject_share", "device", "keep", "top_r"),
            *("average", "outputs", "num_outputs", "resize", "compile"),
        }
    )

    teacher: Teachers
    """Any timm model by name; `weights` is a folder that stage teacher wrote, or a file. A list of
    them is an ensemble: each sees the same crops at its own size, their answers are averaged by
    `share`."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What an ensemble averages: probabilities at temperature 1, or logits. Temperatures act on the
    average: of probabilities p on log p."""
    outputs: Literal["classes", "projection"] = "classes"
    """classes: probabilities of the images' classes; projection: the output of a self-supervised
    teacher's head, before any softmax, kept whole."""
    num_outputs: int | None = Field(None, ge=1, le=1_000_000)
    """D, outputs of the projection head."""
    batch_size: int = Field(256, ge=1, le=65536)
    """Crops a forward. Every forward has this shape; the last of a block is padded."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Type of the forward (autocast); what is kept is computed in float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one. Its kind is part of the shard key."""
    resize: Literal["auto", "cpu", "device"] = "auto"
    """Where crops are cut out and resized: on the device every image is sent there once and the
    processor only decodes. auto: on the device where that is a GPU. Both antialias; they differ by
    up to 2 levels of a pixel, so it is part of the shard key."""
    compile: bool = False
    """Compile the teacher with torch.compile: a minute at the start, faster on a GPU. Part of the
    shard key."""
    temperatures: tuple[float, ...] = (1.0,)
    """Temperatures that top-R predictions can be served at: a logsumexp each; 1 is always kept."""
    keep: Literal["auto", "dense", "topk"] = "auto"
    """dense: log-probability of every class; topk: of the top R; auto: dense up to 2 R classes."""
    top_r: int = Field(64, ge=1, le=65534)
    """R, classes kept with keep topk; also the places that are ranked by the unrounded logit."""
    block_images: int = Field(256, ge=1, le=65536)
    """Images of a block, which is written whole. What is labelled of an unfinished one is kept
    every half minute: a kill loses no more."""
    max_reject_share: float = Field(0.01, ge=0, le=1)
    """Share of a shard's images that may be unusable before the shard fails."""
    num_workers: int = Field(4, ge=1, le=256)
    """Threads that decode and crop."""

    @field_validator("temperatures")
    @classmethod
    def _with_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(1e-3 <= t < 1e6 for t in value):
            raise ValueError(f"every temperature must be 0.001 to a million, not {list(value)}")
        return tuple(sorted({1.0, *value}))

    @model_validator(mode="after")
    def _check_outputs(self) -> Self:
        if self.outputs == "classes":
            if self.num_outputs is not None:
                raise ValueError(
                    f"num_outputs is {self.num_outputs}, allowed with outputs classes: none, since "
                    "the images say how many classes there are"
                )
            return self
        if self.num_outputs is None:
            raise ValueError("num_outputs is missing, needed with outputs projection")
        if len(self.members) > 1:
            raise ValueError(
                f"teacher has {len(self.members)} members, allowed with outputs projection: 1, "
                "since outputs of two projection heads mean different things"
            )
        if self.temperatures != (1.0,):
            raise ValueError(
                f"temperatures is {list(self.temperatures)}, allowed with outputs projection: [1], "
                "since training has its own"
            )
        if self.keep == "topk":
            raise ValueError("keep is topk, allowed with outputs projection: auto, dense")
        return self

    @property
    def members(self) -> tuple[Member, ...]:
        """The teachers, in the order of params.yaml."""
        return (self.teacher,) if isinstance(self.teacher, Member) else self.teacher

    @field_serializer("teacher")
    def _what_it_is(self, value: Member | tuple[Member, ...]) -> Any:
        """Only name and arguments: weights and pixels are in the key as what they are, so that
        moving a file of weights costs no forward, and no path stands in the store. Of several
        teachers the different ones, in an order of their own.
        """
        listed = value if isinstance(value, tuple) else (value,)
        dumped = [each.model_dump(mode="json", include={"name", "model_kwargs"}) for each in listed]
        distinct = {json.dumps(each, sort_keys=True): each for each in dumped}
        found = [each for _, each in sorted(distinct.items())]
        return found[0] if len(found) == 1 else found

"""Parameters of the stage infer."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from stages.shared.model_config import ModelConfig


class Config(BaseModel):
    """Which teacher labels the crops, how, and what of its output is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    # device, keep and top_r are part of the key as what they come to (Inputs.lineage): `auto` and
    # what it stands for are one key.
    NOT_KEYED: ClassVar[frozenset[str]] = frozenset(
        {"num_workers", "max_reject_share", "device", "keep", "top_r"}
    )

    teacher: ModelConfig
    """Any timm model by name; `weights` is a folder that stage teacher wrote, or a file."""
    batch_size: int = Field(256, ge=1, le=65536)
    """Crops a forward. Every forward has this shape; the last of a block is padded."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Type of the forward (autocast); what is kept is computed in float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one. Its kind is part of the shard key."""
    temperatures: tuple[float, ...] = (1.0,)
    """Temperatures that top-R predictions can be served at: a logsumexp each; 1 is always kept."""
    keep: Literal["auto", "dense", "topk"] = "auto"
    """dense: log-probability of every class; topk: of the top R; auto: dense up to 2 R classes."""
    top_r: int = Field(64, ge=1, le=65534)
    """R, classes kept with keep topk; also the places that are ranked by the unrounded logit."""
    block_images: int = Field(256, ge=1, le=65536)
    """Images of a checkpoint block: a kill loses at most one block."""
    max_reject_share: float = Field(0.01, ge=0, le=1)
    """Share of a shard's images that may be unusable before the shard fails."""
    num_workers: int = Field(4, ge=1, le=256)
    """Threads that decode and crop."""

    @field_validator("temperatures")
    @classmethod
    def _with_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < t < 1e6 for t in value):
            raise ValueError(f"every temperature must be above 0, not {list(value)}")
        return tuple(sorted({1.0, *value}))

    @field_serializer("teacher")
    def _what_it_is(self, value: ModelConfig) -> dict[str, Any]:
        """Only name and arguments: weights and pixels are in the key as what they are, so that
        moving a file of weights costs no forward, and no path stands in the store.
        """
        return value.model_dump(mode="json", include={"name", "model_kwargs"})

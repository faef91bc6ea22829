"""Parameters of the stage compress."""

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Config(BaseModel):
    """Which kind of soft label is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    NOT_KEYED: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["hard", "smoothing", "marginal_smoothing", "marginal_renorm", "full"] = (
        "marginal_smoothing"
    )
    """FKD section 3.2: what stands for the classes that are not kept."""
    k: int = Field(5, ge=1, le=65534)
    """K, classes kept a crop by the marginal kinds (fewer where there are fewer classes)."""
    precision: Literal["float16", "compact"] = "compact"
    """Grid that probabilities are rounded to: float16, or one of mean KL below 1e-4."""
    temperature: float = Field(1.0, gt=0, lt=1e6)
    """T of the labels; top-R predictions serve those in infer.temperatures."""
    include_target: bool = False
    """Keep the ground truth's probability also where it is not among the top K."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.include_target and self.kind in ("hard", "full"):
            raise ValueError(f"include_target is true, allowed with kind {self.kind}: false")
        return self
